"""XMP in PNG files: a chunk iTXt with the keyword XML:com.adobe.xmp (XMP specification, part 3, section 1.1.5)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from captioner.metadata.container import MAX_XMP, Container, Piece, replaced
from captioner.metadata.ifd import as_text, exif_descriptions
from captioner.metadata.iptc import iim_descriptions, photoshop_descriptions
from captioner.metadata.source import Source

_KEYWORD = b"XML:com.adobe.xmp"
_PROFILE = b"Raw profile type "  # ImageMagick's metadata, in hexadecimal


@dataclass(frozen=True)
class _Chunk:
    """A chunk: its name and its range in the file, with length and checksum."""

    name: bytes
    start: int
    end: int


class Png(Container):
    """A PNG file, or an animated one (APNG).

    Raises:
        ImageError: it is cut short, or a chunk is damaged.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._chunks = self._read_chunks()
        if self._chunks[0].name != b"IHDR" or not any(chunk.name == b"IDAT" for chunk in self._chunks):
            raise source.fault("it has no PNG header, or no image")
        # fdAT: the further frames of an animation.
        self.pixels = [range(each.start, each.end) for each in self._chunks if each.name in (b"IDAT", b"fdAT")]
        packets: list[tuple[_Chunk, bytes]] = []
        for each in self._chunks:
            if each.name == b"eXIf":
                self.descriptions += exif_descriptions(self._data(each), str(source.name))
            elif each.name in (b"tEXt", b"zTXt", b"iTXt"):
                keyword, value = self._text(each)
                if keyword == _KEYWORD:
                    packets.append((each, value))
                elif keyword == b"Description":
                    self.descriptions.append(as_text(value))
                elif keyword.startswith(_PROFILE):
                    self._read_profile(keyword.removeprefix(_PROFILE), value)
        self._old = packets[0][0] if packets else None
        self.take([packet for _, packet in packets])

    def _read_chunks(self) -> list[_Chunk]:
        source, chunks, position = self.source, list[_Chunk](), 8
        while not chunks or chunks[-1].name != b"IEND":
            length, name = struct.unpack(">I4s", source.read(position, 8))
            end = position + 12 + length
            if end > source.size:
                raise source.fault("the file is cut short")
            if not self._intact(position + 4, end - 4):
                raise source.fault(f"its PNG chunk {name.decode('latin-1')!r} is damaged (wrong checksum)")
            chunks.append(_Chunk(name, position, end))
            position = end
        return chunks

    def _intact(self, start: int, end: int) -> bool:
        checksum, position = 0, start
        while position < end:
            block = self.source.read(position, min(1 << 20, end - position))
            checksum = zlib.crc32(block, checksum)
            position += len(block)
        return self.source.read(end, 4) == struct.pack(">I", checksum)

    def _data(self, chunk: _Chunk) -> bytes:
        return self.source.read(chunk.start + 8, min(chunk.end - chunk.start - 12, MAX_XMP))

    def _text(self, chunk: _Chunk) -> tuple[bytes, bytes]:
        """Return the keyword and the text of a chunk; text that cannot be unpacked or is of no use is empty."""
        keyword, _, rest = self._data(chunk).partition(b"\0")
        if keyword not in (_KEYWORD, b"Description") and not keyword.startswith(_PROFILE):
            return keyword, b""
        packed = chunk.name == b"zTXt"
        if chunk.name == b"iTXt":
            packed = rest[:1] == b"\1"
            rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # without language and translated keyword
        elif packed:
            rest = rest[1:]
        if not packed:
            return keyword, rest
        try:
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(rest, MAX_XMP)
            if keyword == _KEYWORD and not unpacker.eof:
                raise self.source.fault(f"its XMP is damaged, or larger than {MAX_XMP:,} bytes")
            return keyword, text
        except zlib.error:
            if keyword == _KEYWORD:
                raise self.source.fault("its XMP is damaged") from None
            return keyword, b""

    def _read_profile(self, kind: bytes, text: bytes) -> None:
        """Read what ImageMagick writes: a line feed, a name, a length, then hexadecimal digits, each on lines."""
        try:
            data = bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
        except ValueError:
            return
        if kind in (b"exif", b"APP1"):
            self.descriptions += exif_descriptions(data, str(self.source.name))
        elif kind == b"iptc":
            self.descriptions += photoshop_descriptions(data) or iim_descriptions(data)
        elif kind == b"xmp":
            self.extended.append(data)

    def with_packet(self, packet: bytes) -> list[Piece]:
        data = b"iTXt" + _KEYWORD + b"\0\0\0\0\0" + packet
        chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
        first_pixels = self.pixels[0].start
        if self._old is not None and self._old.start < first_pixels:
            return replaced(self.source.size, [(self._old.start, self._old.end, chunk)])
        # After the header: before the pixels, and before Apple's iDOT, which counts bytes from itself to the pixels.
        place = self._chunks[0].end
        old = [(self._old.start, self._old.end, b"")] if self._old is not None else []
        return replaced(self.source.size, [(place, place, chunk), *old])
