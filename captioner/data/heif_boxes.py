"""The boxes of HEIF and AVIF files: which images they hold, and how many pixels are decoded.

The declared size may be that of a crop of a larger image, of a grid of images, or of a grid of grids, and an image
coded as AV1 declares a size that may differ. This module adds up the coded images of which the primary image consists.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from captioner.errors import ImageError

_MAX_UNITS = 10_000  # of AV1 in a file; an image takes about 3
_MAX_EXTENTS = 100_000  # byte ranges of images
_MAX_TRACKS = 16
_MIN_PIXELS = 4096  # pixels counted for an image at least, as every image has a fixed cost
PADDING = 63
"""Pixels that an encoder may add to each side, to fill whole blocks."""

Box = tuple[bytes, int, int]  # kind, start and end of the content
Extents = list[tuple[int, int]]  # start and length of byte ranges in the file


@dataclass
class _Contents:
    """The declarations of the boxes, by the number of the image."""

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    sizes: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    parts: dict[int, list[int]] = field(default_factory=dict)  # the images that a derived image is made of
    extents: dict[int, Extents] = field(default_factory=dict)
    frames: Extents = field(default_factory=list)  # the first of each track


def coded_pixels(data: bytes, name: str) -> tuple[int, tuple[int, int]]:
    """Return the number of pixels to decode, and the size of the largest decoded image.

    Args:
        data: the file.
        name: the image's name in errors.

    Raises:
        ImageError: the file consists of far more parts than an image.
    """
    contents = _read(data, name)
    units = _Units(data, name)
    costs: dict[int, int] = {}
    largest = (0, 0)

    def cost(item: int, depth: int) -> int:
        nonlocal largest
        if item in costs:
            return costs[item]
        if depth > 8:
            raise ImageError(name, "its image is derived from others in too many steps; convert it to JPEG")
        costs[item] = 0  # ends the recursion if it is derived from itself
        sizes = list(contents.sizes.get(item, []))
        frames = 1
        if contents.kinds.get(item) == b"av01":
            frames, coded = units.read(contents.extents.get(item, []))
            sizes += coded
        largest = max((largest, *sizes), key=_area)
        own = max((_MIN_PIXELS, *map(_area, sizes)))
        costs[item] = own * frames + sum(cost(part, depth + 1) for part in contents.parts.get(item, []))
        return costs[item]

    total = cost(contents.primary, 0)
    for frame in contents.frames:
        frames, sizes = units.read([frame])
        largest = max((largest, *sizes), key=_area)
        total += sum(map(_area, sizes)) * frames
    return total, largest


def check_item_kinds(data: bytes) -> None:
    """Check that the kinds of a file's items are text: pi-heif ends the process where that of metadata is not.

    Raises:
        ValueError: one is not.
    """
    for kind, start, end in _boxes(data, 0, len(data)):
        for inner, first, last in _boxes(data, start + 4, end) if kind == b"meta" else ():
            wide = 4 if inner == b"iinf" and any(data[first : first + 1]) else 2
            for entry, place, stop in _boxes(data, first + 4 + wide, last) if inner == b"iinf" else ():
                if entry == b"infe" and place < stop:
                    version = data[place]
                    texts = place + 4 + (4 if version >= 3 else 2) + 2  # after the number and the protection
                    four = data[texts : texts + 4] if version >= 2 else b""
                    _name, _, kinds = data[texts + len(four) : stop].partition(b"\0")
                    try:
                        (four + kinds).decode()
                    except UnicodeDecodeError:
                        raise ValueError("the kind of one of its items is not text") from None


def _area(size: tuple[int, int]) -> int:
    return max(size[0] - PADDING, 0) * max(size[1] - PADDING, 0)


def _boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    while start + 8 <= end:
        size, kind, head = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        if size == 0:  # the last box
            size = end - start
        if size < head:
            return
        yield kind, start + head, min(start + size, end)
        start += size


class _Numbers:
    """Reads the whole numbers of a box in order; 0 beyond the end."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.data, self.position, self.end = data, start, end

    def next(self, size: int) -> int:
        value = int.from_bytes(self.data[self.position : min(self.position + size, self.end)], "big")
        self.position += size
        return value

    @property
    def more(self) -> bool:
        return self.position < self.end


def _read(data: bytes, name: str) -> _Contents:
    contents = _Contents()
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            _read_meta(data, (start + 4, end), contents)
            if sum(map(len, contents.extents.values())) > _MAX_EXTENTS:
                raise ImageError(name, "its images lie in too many parts of the file; convert it to JPEG")
        elif kind == b"moov":
            for track in (box for box in _boxes(data, start, end) if box[0] == b"trak"):
                _read_track(data, track, contents)
                if len(contents.frames) > _MAX_TRACKS:
                    raise ImageError(name, "it has too many tracks; save one image of it as PNG or JPEG")
    return contents


def _read_meta(data: bytes, content: tuple[int, int], contents: _Contents) -> None:
    properties: list[tuple[int, int] | None] = []
    offset = 0  # of the content of the box "idat"
    located: dict[int, tuple[int, Extents]] = {}
    for kind, start, end in _boxes(data, *content):
        numbers = _Numbers(data, start, end)
        version = numbers.next(1)
        numbers.next(3)  # flags
        wide = 4 if version else 2
        if kind == b"pitm":
            contents.primary = numbers.next(wide)
        elif kind == b"iinf":
            for entry, first, last in _boxes(data, start + 4 + wide, end):
                if entry == b"infe" and last - first >= 12:
                    long = 4 if data[first] >= 3 else 2
                    item = int.from_bytes(data[first + 4 : first + 4 + long], "big")
                    contents.kinds[item] = data[first + 6 + long : first + 10 + long]
        elif kind == b"iref":
            for entry, first, last in _boxes(data, start + 4, end):
                references = _Numbers(data, first, last)
                item = references.next(wide)
                count = min(references.next(2), (last - references.position) // wide)
                parts = [references.next(wide) for _ in range(count)]
                if entry == b"dimg":
                    contents.parts.setdefault(item, []).extend(parts)
                elif entry == b"auxl":  # transparency is decoded with the image
                    for part in parts:
                        contents.parts.setdefault(part, []).append(item)
        elif kind == b"iloc":
            _read_locations(numbers, version, located)
        elif kind == b"idat":
            offset = start
        elif kind == b"iprp":
            for entry, first, last in _boxes(data, start, end):
                if entry == b"ipco":
                    for name, content_start, _ in _boxes(data, first, last):
                        size = struct.unpack(">II", data[content_start + 4 : content_start + 12].ljust(8, b"\0"))
                        properties.append(size if name == b"ispe" else None)
                elif entry == b"ipma":
                    _read_associations(_Numbers(data, first, last), properties, contents)
    for item, (method, extents) in located.items():
        contents.extents[item] = [(start + (offset if method == 1 else 0), length) for start, length in extents]


def _read_locations(numbers: _Numbers, version: int, located: dict[int, tuple[int, Extents]]) -> None:
    sizes = numbers.next(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    wide = 4 if version == 2 else 2
    total = 0
    for _ in range(numbers.next(wide)):
        if not numbers.more or total > _MAX_EXTENTS:
            return
        item = numbers.next(wide)
        method = numbers.next(2) & 15 if version else 0
        numbers.next(2)
        base = numbers.next(base_size)
        extents: Extents = []
        count = numbers.next(2)
        fields = index_size + offset_size + length_size  # without any, one extent is the rest of the file
        for _ in range(count if fields else min(count, 1)):
            if (fields and not numbers.more) or total > _MAX_EXTENTS:
                break
            total += 1
            numbers.next(index_size)
            start, length = base + numbers.next(offset_size), numbers.next(length_size)
            extents.append((start, length or len(numbers.data)))
        located[item] = method, extents


def _read_associations(numbers: _Numbers, properties: list[tuple[int, int] | None], contents: _Contents) -> None:
    version, flags = numbers.next(1), numbers.next(3)
    for _ in range(numbers.next(4)):
        if not numbers.more:
            return
        item = numbers.next(4 if version else 2)
        for _ in range(numbers.next(1)):
            index = numbers.next(2) & 0x7FFF if flags & 1 else numbers.next(1) & 0x7F
            if 1 <= index <= len(properties) and (size := properties[index - 1]):
                contents.sizes.setdefault(item, []).append(size)


def _read_track(data: bytes, track: Box, contents: _Contents) -> None:
    """Add the extent of the first frame of a track."""
    box: Box | None = track
    for inner in (b"mdia", b"minf", b"stbl"):
        if box is not None:
            box = next((found for found in _boxes(data, box[1], box[2]) if found[0] == inner), None)
    if box is None:
        return
    start = length = 0
    for kind, first, last in _boxes(data, box[1], box[2]):
        numbers = _Numbers(data, first + 4, last)
        if kind == b"stsz":
            length = numbers.next(4) or (numbers.next(4) and numbers.next(4))
        elif kind in (b"stco", b"co64") and numbers.next(4):
            start = numbers.next(8 if kind == b"co64" else 4)
    contents.frames.append((start, length))


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "big"), 8 * len(data)

    def next(self, count: int) -> int:
        """Return the next ``count`` bits as a number; 0 beyond the end."""
        self.left -= count
        return (self.value >> self.left if self.left > 0 else self.value << -self.left) & ((1 << count) - 1)


class _Units:
    """Reads the units of AV1 data, within limits for the whole file."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name
        self._units = self._bytes = 0

    def read(self, extents: Extents) -> tuple[int, list[tuple[int, int]]]:
        """Return the number of frames of a coded image, and the largest size by each of its sequence headers."""
        parts = []
        for start, length in extents:
            parts.append(self._data[start : start + length])
            self._bytes += len(parts[-1])
            if self._bytes > 2 * len(self._data):
                raise ImageError(self._name, "its images share the same bytes many times; convert it to JPEG")
        data = b"".join(parts)
        frames = place = 0
        sizes = []
        while place < len(data):
            head = data[place]
            place += 2 if head & 4 else 1
            length = shift = 0
            if head & 2:
                while place < len(data) and shift < 56:
                    byte = data[place]
                    place += 1
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
            else:
                length = len(data) - place
            kind = head >> 3 & 15
            if kind == 1:
                sizes.append(_sequence_size(data[place : place + min(length, 512)]))
            frames += kind in (3, 6)
            self._units += 1
            if self._units > _MAX_UNITS:
                raise ImageError(self._name, "its AV1 data has far more parts than an image; convert it to JPEG")
            place += length
        return max(frames, 1), sizes


def _sequence_size(header: bytes) -> tuple[int, int]:
    """Return the width and height in a sequence header of AV1 (section 5.5 of its specification)."""
    bits = _Bits(header)
    bits.next(4)  # profile, still image
    if bits.next(1):  # reduced
        bits.next(5)
    else:
        delay = 0
        if bits.next(1):  # timing
            bits.next(64)
            if bits.next(1):  # a number of ticks, with as many bits as zeros before it
                zeros = 0
                while zeros < 32 and not bits.next(1):
                    zeros += 1
                bits.next(zeros)
            if bits.next(1):  # decoder model
                delay = bits.next(5) + 1
                bits.next(42)
        displays = bits.next(1)
        for _ in range(bits.next(5) + 1):  # operating points
            bits.next(12)
            if bits.next(5) > 7:  # level
                bits.next(1)
            if delay and bits.next(1):
                bits.next(2 * delay + 1)
            if displays and bits.next(1):
                bits.next(4)
    wide, high = bits.next(4) + 1, bits.next(4) + 1
    return bits.next(wide) + 1, bits.next(high) + 1
