"""Checks of the cost of decoding that a header does not declare: scans, tiles, strips, blocks, icons.

The limit on pixels bounds a decoder's time and memory only if both follow from the size in the header. Each function
here checks, before decoding, the other costs of one format. They raise an :class:`ImageError` about ``name``.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO

from PIL import ImageFile

from captioner.data.pixel_limit import check_declared, check_size
from captioner.errors import ImageError

_MAX_SCANS = 100  # of a JPEG: libjpeg and mozjpeg write 10 to 15; libtiff has the same limit
_SCANS_AT_LIMIT = 20  # of an image as large as the limit on pixels allows, or of one in a TIFF
_TOO_MANY_SCANS = (
    "it has more than {} scans, each of which takes as long to decode as a whole image; save it again as JPEG"
)
_MAX_SEGMENTS = 10_000  # before the first scan of a JPEG: ICC profiles and XMP take up to a few hundred
_MAX_EXIF_SEGMENTS = 100  # Pillow joins them in quadratic time
_MAX_RAW_PARTS = 150_000  # uncompressed strips or tiles of a TIFF, which Pillow copies one by one in Python
_MAX_PARTS = 1_000_000  # compressed ones; an image at the limit has 700,000 tiles of 16 x 16
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MAX_ICONS = 1000
_MAX_J2K_TILES = 16_384  # OpenJPEG takes about 10 kB for each, filled or not
_MAX_J2K_BLOCKS = 2_000_000  # about 200 bytes for each; an image at the limit has 700,000 blocks of 32 x 32
_MAX_J2K_PACKETS = 4_000_000  # about 1 microsecond for each; 20 layers at the limit have 220,000

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_SOF = {0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB}
_UNREADABLE = {**dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical"), 0xF7: "lossless (JPEG-LS)"}
_WITHOUT_SEGMENT = {0x01, *range(0xD0, 0xD9)}  # markers without a segment


def check_jpeg(stream: IO[bytes], name: str, limit: int) -> None:
    """Limit the scans of a JPEG, each of which is a pass over all pixels, and the segments of its header."""
    data = b""
    for size in (1 << 13, 1 << 16, 1 << 20, -1):  # the first of these is in the buffer already
        data += stream.read(size)
        header = _header(data, name)
        if header.start or len(data) < size:
            break
    if not header.start or not (header.progressive or header.in_scan < header.components):
        return
    data += stream.read()
    most = min(_MAX_SCANS, max(_SCANS_AT_LIMIT * limit // max(header.pixels, 1), _SCANS_AT_LIMIT))
    if data.count(b"\xff\xda", header.start) < most:  # may count too many, never too few
        return
    later_scans = (marker for marker, _, _ in _segments(data, header.start) if marker == 0xDA)
    if len(list(islice(later_scans, most))) == most:
        raise ImageError(name, _TOO_MANY_SCANS.format(most))


@dataclass
class _Header:
    """The header of a JPEG up to its first scan."""

    progressive: bool = False
    components: int = 0
    pixels: int = 0
    in_scan: int = 0  # components of the first scan
    start: int = 0  # of the scan's data; 0 without a scan


def _header(data: bytes, name: str) -> _Header:
    header = _Header()
    exif = 0
    for number, (marker, place, end) in enumerate(_segments(data)):
        exif += marker == 0xE1 and data.startswith(b"Exif\0\0", place)
        if number > _MAX_SEGMENTS or exif > _MAX_EXIF_SEGMENTS:
            raise ImageError(name, "its header has far more parts than an image needs; save it again as JPEG")
        if process := _UNREADABLE.get(marker):
            raise ImageError(name, f"{process} JPEG is not supported; convert it to an ordinary PNG or JPEG")
        if marker in _SOF and end - place >= 6:
            header.progressive = marker in (0xC2, 0xCA)
            height, width, header.components = struct.unpack_from(">HHB", data.ljust(place + 6), place + 1)
            header.pixels = width * height
            if height == 0:  # libjpeg does not look for it behind the first scan
                raise ImageError(
                    name, "JPEG whose header has no height is not supported; convert it to an ordinary PNG or JPEG"
                )
        elif marker == 0xDA and place < len(data):
            header.in_scan, header.start = data[place], end
            break
    return header


def _segments(data: bytes, start: int = 2) -> Iterator[tuple[int, int, int]]:
    """Yield the markers of a JPEG as libjpeg finds them, each with the start and end of its segment."""
    while match := _MARKER.search(data, start):
        marker, start = match[1][0], match.end()
        if marker == 0xD9:
            return
        if marker in _WITHOUT_SEGMENT:
            continue
        end = start + max(int.from_bytes(data[start : start + 2], "big"), 2)
        yield marker, start + 2, end
        start = end


def check_tiff(stream: IO[bytes], name: str, limit: int) -> None:
    """Limit the strips, tiles, bytes of tags and JPEG scans of the first page of a TIFF."""
    head = stream.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    count = struct.Struct(order + ("Q" if big else "H"))
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
    end = stream.seek(0, os.SEEK_END)
    if start + count.size > end:
        return
    stream.seek(start)
    (entries,) = count.unpack(stream.read(count.size))
    block = stream.read(min(entries, 65_535) * entry.size)
    values: dict[int, int] = {}
    total = parts = 0
    for tag, kind, length, value in entry.iter_unpack(block[: len(block) // entry.size * entry.size]):
        size = length * _TIFF_BYTES.get(kind, 0)
        total += size if size > len(value) else 0
        parts = max(parts, length if tag in (273, 324) else 0)
        if length == 1 and kind in (3, 4):
            values.setdefault(tag, int(struct.unpack_from(order + ("H" if kind == 3 else "I"), value)[0]))
    if parts > (_MAX_RAW_PARTS if values.get(259, 1) == 1 else _MAX_PARTS):
        raise ImageError(name, f"it consists of {parts:,} strips or tiles, too many to be read; save it again in fewer")
    if total > 2 * end:  # many tags point to the same bytes
        raise ImageError(name, "damaged TIFF (its tags claim more bytes than it has); get a fresh copy of it")
    if values.get(259) in (6, 7):  # JPEG, one for each strip or tile
        stream.seek(0)
        if max(strip.count(b"\xff\xda") for strip in stream.read().split(b"\xff\xd8")) > _SCANS_AT_LIMIT:
            raise ImageError(name, _TOO_MANY_SCANS.format(_SCANS_AT_LIMIT))
    if values.get(322) and values.get(323):  # a tile is decoded whole, even if little of it lies in the image
        width, height = (values.get(tag, 0) for tag in (256, 257))
        wide, high = values[322], values[323]
        check_declared(-(-width // wide) * wide * -(-height // high) * high, (width, height), name)


def check_tiles(image: ImageFile.ImageFile, name: str) -> None:
    """Check that the strips or tiles of an image do not cover it many times."""
    boxes = (tile[1] for tile in image.tile or () if tile[1])
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if covered > 8 * max(image.width * image.height, 4096):  # each colour plane covers the image once
        raise ImageError(name, f"damaged {image.format} (its parts cover it many times); get a fresh copy of it")


def check_icons(stream: IO[bytes], name: str, limit: int) -> None:
    """Limit the images in an ICO or CUR file: its directory declares at most 256 x 256 for each.

    Pillow decodes the largest when it opens the file.
    """
    (count,) = struct.unpack_from("<H", stream.read(6).ljust(6, b"\0"), 4)
    if count > _MAX_ICONS:
        raise ImageError(name, f"it holds {count:,} icons, too many to be sound; give one image")
    directory = stream.read(16 * count)
    for place in range(0, len(directory) - 15, 16):
        stream.seek(struct.unpack_from("<I", directory, place + 12)[0])
        head = stream.read(24)
        if len(head) == 24:
            is_png = head.startswith(b"\x89PNG")
            width, height = struct.unpack(">II", head[16:]) if is_png else struct.unpack_from("<ii", head, 4)
            size = abs(width), abs(height) // (1 if is_png else 2)  # the other half is the mask
            if size[0] * size[1] > limit:
                check_size(size, name, limit)
            check_declared(size[0] * size[1], (256, 256), name)


def check_jpeg2000(stream: IO[bytes], name: str, limit: int) -> None:
    """Limit the size, tiles, blocks and layers in the codestream of a JPEG 2000 image.

    OpenJPEG allocates a structure for each, used or not: precincts of one pixel take hundreds of bytes a pixel.
    """
    data = stream.read()
    start = 0 if data.startswith(b"\xff\x4f") else _find_box(data, b"jp2c")
    if start is None or len(data) < start + 44:
        return
    right, bottom, left, top, tile_width, tile_height, x, y, components = struct.unpack_from(">8IH", data, start + 8)
    check_size((right - left, bottom - top), name, limit)
    tiles = -(-(right - x) // max(tile_width, 1)) * -(-(bottom - y) // max(tile_height, 1))
    if tiles > _MAX_J2K_TILES or components > 16:
        raise ImageError(
            name, f"JPEG 2000 with {tiles:,} tiles of {components} channels is not supported; convert it to PNG or JPEG"
        )
    # The depth less 1 of each channel, and a bit for its sign. Pillow turns the white of deeper colours into black.
    depth = max(data[start + 42 : start + 42 + 3 * components : 3], default=0) & 0x7F
    if components > 1 and depth >= 8:
        raise ImageError(
            name, f"JPEG 2000 with colours of {depth + 1} bits is not supported; convert it to PNG or JPEG"
        )
    for layers, flags, style in _coding_styles(data, start, components):
        blocks, packets = _count_blocks(layers, flags, style, (right - left, bottom - top), tiles)
        if blocks * components > _MAX_J2K_BLOCKS or packets * components > _MAX_J2K_PACKETS:
            raise ImageError(
                name, "JPEG 2000 in so many small blocks or layers is not supported; convert it to PNG or JPEG"
            )


def jpeg2000_profile(stream: IO[bytes]) -> bytes | None:
    """Return the ICC profile of a JPEG 2000 file, which Pillow leaves out."""
    stream.seek(0)
    data = stream.read()
    header = _find_box(data, b"jp2h")
    if header is None:
        return None
    end = header - 8 + int.from_bytes(data[header - 8 : header - 4], "big")
    colour = _find_box(data[:end], b"colr", header)
    if colour is None or data[colour] not in (2, 3):  # 1 is an enumerated colour space
        return None
    return data[colour + 3 : colour - 8 + int.from_bytes(data[colour - 8 : colour - 4], "big")]


def _find_box(data: bytes, wanted: bytes, place: int = 0) -> int | None:
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        head = 16 if size == 1 else 8
        if kind == wanted:
            return place + head
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size < head:
            break
        place += size
    return None


def _coding_styles(data: bytes, start: int, components: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the layers, flags and coding styles in the headers of a JPEG 2000 codestream and its tiles."""
    place, part, layers = start + 2, None, 1
    while place + 4 <= len(data):
        marker = data[place : place + 2]
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : place + 2 + length]
        if marker == b"\xff\x90" and len(segment) >= 8:  # a tile part, with the distance to the next
            part = place + int.from_bytes(segment[2:6], "big")
        elif marker == b"\xff\x93":
            if part is None or part <= place:
                return
            place = part
            continue
        elif marker[0] != 0xFF or marker == b"\xff\xd9" or length < 2:
            return
        elif marker == b"\xff\x52" and len(segment) >= 10:
            layers = int.from_bytes(segment[2:4], "big")
            yield layers, segment[0], segment[5:]
        elif marker == b"\xff\x53" and len(segment) >= 7:
            body = segment[1 if components < 257 else 2 :]
            yield layers, body[0], body[1:]
        place += 2 + length


def _count_blocks(layers: int, flags: int, style: bytes, size: tuple[int, int], tiles: int) -> tuple[int, int]:
    """Return the code blocks and packets of one channel with this style."""
    width, height = size
    levels = min(style[0], 32)
    blocks = packets = 0
    for level in range(levels + 1):
        precinct = style[5 + level] if flags & 1 and len(style) > 5 + level else 0xFF
        across, down = precinct & 15, precinct >> 4
        columns, rows = (width >> (levels - level)) + 1, (height >> (levels - level)) + 1
        blocks += tiles + _cells(columns, min(style[1] + 2, across)) * _cells(rows, min(style[2] + 2, down))
        packets += max(tiles, _cells(columns, across) * _cells(rows, down)) * layers
    return blocks, packets


def _cells(length: int, exponent: int) -> int:
    return -(-length >> exponent)
