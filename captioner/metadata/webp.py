"""XMP in WebP files: a RIFF chunk 'XMP ' (RFC 9649, section 2.7)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from captioner.metadata.container import Container, Piece, replaced
from captioner.metadata.ifd import exif_descriptions
from captioner.metadata.source import Source

_XMP, _ALPHA = 0x04, 0x10  # flags of VP8X
_XMP_NAMES = (b"XMP ", b"XMP\0")  # the second by writers that took the blank for padding
_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")


@dataclass(frozen=True)
class _Chunk:
    """A chunk: its name, its range in the file with header and padding, and the size of its data."""

    name: bytes
    start: int
    end: int
    size: int


class WebP(Container):
    """A WebP file: simple lossy or lossless, extended, or animated.

    Raises:
        ImageError: it is cut short or damaged.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._chunks = self._read_chunks()
        first = self._chunks[0].name if self._chunks else b""
        self.pixels = [range(each.start, each.start + 8 + each.size) for each in self._chunks if each.name in _PIXELS]
        if first not in (b"VP8X", b"VP8 ", b"VP8L") or not self.pixels:
            raise source.fault("it has no WebP image")
        packets = [each for each in self._chunks if each.name in _XMP_NAMES]
        self._old = packets[0] if packets else None
        self.take([source.read(each.start + 8, each.size) for each in packets])
        for each in self._chunks:
            if each.name == b"EXIF":
                self.descriptions += exif_descriptions(source.read(each.start + 8, each.size), str(source.name))

    def _read_chunks(self) -> list[_Chunk]:
        source, chunks, position = self.source, list[_Chunk](), 12
        (size,) = struct.unpack("<I", source.read(4, 4))
        self._riff_end = min(8 + size + (size & 1), source.size)
        if 8 + size > source.size:
            raise source.fault("the file is cut short")
        while position + 8 <= self._riff_end:
            name, length = struct.unpack("<4sI", source.read(position, 8))
            end = position + 8 + length
            if end > self._riff_end:
                raise source.fault(f"its WebP chunk {name.decode('latin-1')!r} is damaged")
            end = min(end + (length & 1), self._riff_end)
            chunks.append(_Chunk(name, position, end, length))
            position = end
        return chunks

    def with_packet(self, packet: bytes) -> list[Piece]:
        first = self._chunks[0]
        edits: list[tuple[int, int, bytes]] = []
        if first.name == b"VP8X":
            if first.size < 10:
                raise self.source.fault("its WebP chunk 'VP8X' is damaged")
            (flags,) = self.source.read(first.start + 8, 1)
            edits.append((first.start + 8, first.start + 9, bytes([flags | _XMP])))
        else:
            edits.append((first.start, first.start, self._extended_header(first)))
        chunk = b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) & 1)
        last = self._chunks[-1]
        if self._old is not None:
            edits.append((self._old.start, self._old.end, chunk))
        else:
            odd = (last.end - last.start) & 1  # the last chunk lacks its padding
            edits.append((self._riff_end, self._riff_end, b"\0" * odd + chunk))
        growth = sum(len(new) - (end - start) for start, end, new in edits)
        size = self._riff_end - 8 + growth
        if size > 0xFFFFFFF6:
            raise self.source.fault("with the caption it would exceed the 4 GiB of a WebP file", "write an XMP sidecar")
        return replaced(self.source.size, [(4, 8, struct.pack("<I", size)), *edits])

    def _extended_header(self, image: _Chunk) -> bytes:
        """Return the chunk VP8X that a simple file needs before its image, with the canvas and transparency of that.

        Raises:
            ImageError: the header of the image is damaged.
        """
        head = self.source.read(image.start + 8, min(10, image.size))
        flags = _XMP
        if image.name == b"VP8 ":
            if len(head) < 10 or head[0] & 1 or head[3:6] != b"\x9d\x01\x2a":  # RFC 6386, section 9.1: a key frame
                raise self.source.fault("its WebP image is damaged")
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 6))
        else:
            if len(head) < 5 or head[0] != 0x2F:  # RFC 9649, section 3.4: 14 bits a side, then one of transparency
                raise self.source.fault("its WebP image is damaged")
            (bits,) = struct.unpack_from("<I", head, 1)
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
            flags |= _ALPHA if bits >> 28 & 1 else 0
        if not width or not height:
            raise self.source.fault("its WebP image is damaged")
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return b"VP8X" + struct.pack("<II", 10, flags) + canvas
