"""XMP in JPEG files: an APP1 segment (XMP specification, part 3, section 1.1.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from captioner.metadata.container import Container, Piece, replaced
from captioner.metadata.ifd import Directories, exif_descriptions
from captioner.metadata.iptc import photoshop_descriptions
from captioner.metadata.source import Source

_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"
_EXIF, _PHOTOSHOP, _MPF = b"Exif\0", b"Photoshop 3.0\0", b"MPF\0"
_MAX_PACKET = 65533 - len(_XMP)  # a segment's length has 16 bits, and counts itself
_ENTRIES = 0xB002  # MPF's list of images
_SCAN, _END = 0xDA, 0xD9
_WITHOUT_SEGMENT = {0x01, *range(0xD0, 0xD8)}  # markers without a segment


@dataclass(frozen=True)
class _Segment:
    """A segment before the first scan.

    Attributes:
        marker: its second byte, for example E1 for APP1.
        start: position of its marker, or of the fill bytes before that.
        data: position of its data, after the marker and the length.
        end: position after its data.
        head: the first bytes of its data.
    """

    marker: int
    start: int
    data: int
    end: int
    head: bytes


class Jpeg(Container):
    """A JPEG file.

    Raises:
        ImageError: it is cut short, or a segment is damaged.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._segments, scan = self._read_segments()
        self.pixels = [range(scan, source.size)]
        if source.size < 4 or (source.read(source.size - 2, 2) != b"\xff\xd9" and source.find(b"\xff\xd9", scan) < 0):
            raise source.fault("the file is cut short, it has no end marker")
        if source.size > 12 and source.read(source.size - 12, 4) in (b"AXS!", b"AXS*"):
            self.refusal = source.fault(
                "it ends with AFCP data, which has positions in the file", "write an XMP sidecar"
            )
        packets = [each for each in self._segments if each.marker == 0xE1 and each.head.startswith(_XMP)]
        self._old = packets[0] if packets else None
        self.take([self._data(each)[len(_XMP) :] for each in packets])
        photoshop, extended = b"", list[tuple[bytes, int, bytes]]()
        for each in self._segments:
            if each.marker == 0xE1 and each.head.startswith(_EXIF):
                self.descriptions += exif_descriptions(self._data(each), str(source.name))
            elif each.marker == 0xE1 and each.head.startswith(_EXTENDED) and len(each.head) == len(_EXTENDED) + 40:
                guid, _, part = struct.unpack_from(">32sII", each.head, len(_EXTENDED))
                extended.append((guid, part, self._data(each)[len(_EXTENDED) + 40 :]))
            elif each.marker == 0xED and each.head.startswith(_PHOTOSHOP):
                photoshop += self._data(each)[len(_PHOTOSHOP) :]
        self.descriptions += photoshop_descriptions(photoshop)
        if extended:
            self.extended.append(b"".join(data for _, _, data in sorted(extended)))

    def _read_segments(self) -> tuple[list[_Segment], int]:
        """Return the segments before the first scan, and the scan's position."""
        source, segments, position = self.source, list[_Segment](), 2
        while True:
            start = position
            if source.read(position, 1) != b"\xff":
                raise source.fault("one of its JPEG segments is damaged")
            while (code := source.read(position + 1, 1)) == b"\xff":  # fill bytes
                position += 1
            marker = code[0]
            if marker == _SCAN:
                if not segments:
                    raise source.fault("it has no JPEG header")
                return segments, start
            if marker in (0, _END):
                raise source.fault("it has no JPEG image")
            position += 2
            if marker in _WITHOUT_SEGMENT:
                continue
            (length,) = struct.unpack(">H", source.read(position, 2))
            if length < 2:
                raise source.fault("one of its JPEG segments is damaged")
            head = source.read(position + 2, min(length - 2, len(_EXTENDED) + 40))
            segments.append(_Segment(marker, start, position + 2, position + length, head))
            position += length
            if position > source.size:
                raise source.fault("the file is cut short")

    def _data(self, segment: _Segment) -> bytes:
        return self.source.read(segment.data, segment.end - segment.data)

    def with_packet(self, packet: bytes) -> list[Piece]:
        if len(packet) > _MAX_PACKET:
            raise self.source.fault(
                f"a JPEG holds XMP of up to {_MAX_PACKET:,} bytes, and with the caption it would have {len(packet):,}",
                "write an XMP sidecar",
            )
        segment = b"\xff\xe1" + struct.pack(">H", len(_XMP) + len(packet) + 2) + _XMP + packet
        start, end = (self._old.start, self._old.end) if self._old else (self._place(), self._place())
        edits = [(start, end, segment)]
        for each in self._segments:
            if each.marker == 0xE2 and each.head.startswith(_MPF):
                edits += self._moved_images(each, end, len(segment) - (end - start))
        return replaced(self.source.size, sorted(edits))

    def _place(self) -> int:
        """Return the position of a first XMP segment: after JFIF's and EXIF's, which stand first."""
        place = 2
        for each in self._segments:
            if each.marker != 0xE0 and not (each.marker == 0xE1 and each.head.startswith(_EXIF)):
                break
            place = each.end
        return place

    def _moved_images(self, segment: _Segment, end: int, growth: int) -> list[tuple[int, int, bytes]]:
        """Return the edits of an MPF index (CIPA DC-007, section 5.2.3), which locates the other images of the file.

        Args:
            segment: the index.
            end: from this position on, everything moves.
            growth: bytes by which it moves.
        """
        base = segment.data + len(_MPF)
        index = Directories(Source.of_bytes(self._data(segment)[len(_MPF) :], self.source.name))
        shift = growth if base >= end else 0
        edits = []
        _, entries = next(index.pages())
        for entry in (entry for entry in entries if entry.tag == _ENTRIES):
            values = index.value(entry)
            for number in range(len(values) // 16):
                size, offset = struct.unpack_from(index.order + "II", values, 16 * number + 4)
                if number == 0 and offset == 0:  # the first image itself
                    size += growth
                elif offset and base + offset >= end:
                    offset += growth - shift
                if not (0 <= size < 1 << 32 and 0 <= offset < 1 << 32):
                    raise self.source.fault("its index of images (MPF) is damaged")
                at = base + entry.where + 16 * number + 4
                edits.append((at, at + 8, index.pack("II", size, offset)))
        return edits
