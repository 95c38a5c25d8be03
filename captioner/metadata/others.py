"""Captions in image files of other kinds, which are only read: HEIC, AVIF, GIF, JPEG XL, JPEG 2000 and Canon's CR3."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from captioner.metadata.container import MAX_XMP, Container, Piece
from captioner.metadata.ifd import exif_descriptions
from captioner.metadata.source import Source

_BOXED = ((0, b"\0\0\0\x0cJXL "), (0, b"\0\0\0\x0cjP  "), (4, b"ftypcrx"))
_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # of XMP (XMP specification, part 3, section 1.1.4)
_GIF_XMP, _GIF_END = b"!\xff\x0bXMP DataXMP", b"\x01\xff\xfe\xfd"  # the packet lies between them (1.1.2)


class Other(Container):
    """The metadata of a file that cannot be written.

    Raises:
        ImageError: a box of it is damaged.
    """

    def __init__(self, source: Source, path: Path) -> None:
        super().__init__(source)
        head = source.read(0, min(64, source.size))
        if head.startswith(b"GIF8"):
            self._read_gif()
        elif any(head.startswith(magic, at) for at, magic in _BOXED):
            self._read_boxes()
        else:
            self._read_by_library(head, path)

    def _read_gif(self) -> None:
        start = self.source.find(_GIF_XMP, 0)
        end = self.source.find(_GIF_END, start) if start >= 0 else -1
        if 0 <= start < end <= start + MAX_XMP:
            start += len(_GIF_XMP)
            self.packet = self.source.read(start, end - start)

    def _read_boxes(self) -> None:
        for kind, start, end in self._boxes():
            if kind not in (b"xml ", b"uuid", b"Exif") or end - start > MAX_XMP:
                continue
            content = self.source.read(start, end - start)
            if kind == b"xml ":
                self.packet = content
            elif kind == b"Exif":  # after the position of its beginning
                self.descriptions += exif_descriptions(content[4:], str(self.source.name))
            elif content.startswith(_UUID):
                self.packet = content[len(_UUID) :]

    def _boxes(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield the kind of each outer box, and where its content lies."""
        position = 0
        while position + 16 <= self.source.size:
            size, kind, long_size = struct.unpack(">I4sQ", self.source.read(position, 16))
            head = 16 if size == 1 else 8
            size = {0: self.source.size - position, 1: long_size}.get(size, size)
            if size < head:
                return
            yield kind, position + head, min(position + size, self.source.size)
            position += size

    def _read_by_library(self, head: bytes, path: Path) -> None:
        from PIL import Image

        from captioner.data.heif import is_heif, open_heif
        from captioner.data.images import silence_pillow

        silence_pillow()
        with suppress(Exception), open(path, "rb") as file:  # a damaged file can make a library raise nearly anything
            image = open_heif(file, str(path)) if is_heif(head) else Image.open(file, formats=["AVIF"])
            self.packet = image.info.get("xmp")
            self.descriptions = exif_descriptions(image.info.get("exif") or b"", str(path))

    def with_packet(self, packet: bytes) -> list[Piece]:
        raise NotImplementedError
