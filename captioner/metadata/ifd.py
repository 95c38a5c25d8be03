"""Directories of tagged values (IFDs), which TIFF, EXIF and MPF share, in TIFF 6.0's form and in that of BigTIFF."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from captioner.errors import ImageError
from captioner.metadata.source import Source

IMAGE_DESCRIPTION, XMP, IPTC, PHOTOSHOP = 270, 700, 33723, 34377

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_PAGES = 1 << 16


@dataclass(frozen=True)
class Entry:
    """A value in a directory.

    Attributes:
        tag: its number.
        kind: the number of its type; 2 is text, 7 is bytes.
        count: how many values of that type it has.
        position: of the entry in the file.
        where: position of its value, which is inside the entry if short.
        size: of its value in bytes; 0 if the type is unknown.
    """

    tag: int
    kind: int
    count: int
    position: int
    where: int
    size: int


class Directories:
    """The directories of a file or block that begins with a TIFF header.

    Attributes:
        source: the file or block.
        order: ``<`` or ``>`` for :mod:`struct`.
        big: whether it is BigTIFF, with positions of eight bytes.

    Raises:
        ImageError: the header is damaged.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        head = source.read(0, 8)
        if head[:2] not in (b"II", b"MM"):
            raise source.fault("its TIFF header is damaged")
        self.order = "<" if head[:2] == b"II" else ">"
        self.big = head[2:4] in (b"+\0", b"\0+")
        if self.big and self._integers("HH", 4) != (8, 0):
            raise source.fault("its BigTIFF header is damaged")
        self.first_at = 8 if self.big else 4  # position of the position of the first directory
        self.offset, self.counter = ("Q", "Q") if self.big else ("I", "H")
        self.entry_size, self.inline = (20, 8) if self.big else (12, 4)

    def pack(self, form: str, *values: int) -> bytes:
        """Return integers as bytes in this file's order; ``form`` is that of :mod:`struct`."""
        return struct.pack(self.order + form, *values)

    def _integers(self, form: str, position: int) -> tuple[int, ...]:
        return struct.unpack(self.order + form, self.source.read(position, struct.calcsize(self.order + form)))

    def pages(self) -> Iterator[tuple[int, list[Entry]]]:
        """Yield the position and the entries of each directory in the chain.

        Raises:
            ImageError: a directory is damaged or lies beyond the end of the file, or the chain is a circle.
        """
        (at,) = self._integers(self.offset, self.first_at)
        seen: set[int] = set()
        while at:
            if at in seen or len(seen) >= _MAX_PAGES:
                raise self.source.fault("its TIFF directories form a circle, or are too many")
            seen.add(at)
            yield at, self.directory(at)
            at = self.following(at)
        if not seen:
            raise self.source.fault("it has no TIFF directory")

    def directory(self, at: int) -> list[Entry]:
        """Return the entries of the directory at a position."""
        return [self._entry(position) for position in self._positions(at)]

    def following(self, at: int) -> int:
        """Return the position of the directory after the one at a position, or 0 if there is none."""
        return self._integers(self.offset, self._positions(at).stop)[0]

    def _positions(self, at: int) -> range:
        """Return the positions of the entries of a directory."""
        (count,) = self._integers(self.counter, at)
        start = at + struct.calcsize("<" + self.counter)
        positions = range(start, start + count * self.entry_size, self.entry_size)
        if not count or count > 1 << 16 or positions.stop > self.source.size:
            raise self.source.fault("its TIFF directory is damaged")
        return positions

    def _entry(self, position: int) -> Entry:
        tag, kind, count = self._integers("HH" + self.offset, position)
        size = _SIZES.get(kind, 0) * count
        where = position + self.entry_size - self.inline
        if size > self.inline:
            (where,) = self._integers(self.offset, where)
        return Entry(tag, kind, count, position, where, size)

    def value(self, entry: Entry, most: int = 64 << 20) -> bytes:
        """Return the bytes of a value.

        Raises:
            ImageError: they lie beyond the end of the file, or are more than ``most``.
        """
        if entry.size > most:
            raise self.source.fault(f"its TIFF tag {entry.tag} is damaged")
        return self.source.read(entry.where, entry.size)

    def numbers(self, entry: Entry) -> tuple[int, ...]:
        """Return a value as whole numbers, or an empty tuple if it is of another type."""
        form = _INTEGERS.get(entry.kind)
        return struct.unpack(f"{self.order}{entry.count}{form}", self.value(entry)) if form else ()


def as_text(data: bytes) -> str:
    """Return text of EXIF or IPTC, which is UTF-8 in practice and Windows-1252 in old files, without its padding."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    return text.strip("\0 \t\r\n")


def exif_descriptions(block: bytes, name: str) -> list[str]:
    r"""Return EXIF's ImageDescription in a block of EXIF, if it has one; a damaged block has none that can be read.

    Args:
        block: the EXIF data, with or without the six bytes ``Exif\0\0`` before it.
        name: the file's name.
    """
    try:
        directories = Directories(Source.of_bytes(block.removeprefix(b"Exif\0\0"), name))
        _, entries = next(directories.pages())
        return [as_text(directories.value(entry)) for entry in entries if entry.tag == IMAGE_DESCRIPTION]
    except (ImageError, struct.error):
        return []
