"""HEIF pictures coded as HEVC (HEIC), as phones and cameras write them; the package pi-heif decodes them."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import IO

from PIL import ImageFile

from captioner.data.limits import check_size
from captioner.errors import ImageError

_NO_HEIF = "HEIC photos are read by the package pi-heif, which {}; pip install -U pi-heif, or convert the photo to JPEG"
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_GENERAL_BRANDS = {b"mif1", b"mif2", b"msf1"}
_ISPE = re.compile(rb"\0\0\0\x14ispe\0\0\0\0(.{8})", re.DOTALL)  # HEIF's box of an image's width and height
_PADDING = 63  # pixels that an encoder may add to each side, to fill whole blocks


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is HEIF with pictures coded as HEVC."""
    if head[4:8] != b"ftyp":
        return False
    # The major brand, then a version, then the brands that the file is compatible with, until the box ends.
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, end, 4))}
    # "mif1" and "msf1" are general brands: AVIF files begin with them too, and name AVIF further on.
    return not brands & _AVIF_BRANDS and (head[8:12] in _GENERAL_BRANDS or bool(brands & _HEIC_BRANDS))


def open_heif(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Read the header of a HEIF picture; the first call imports pi-heif, which takes a while to load.

    The size is that of the upright picture, and its EXIF orientation is 1: HEIF has a rotation of its own, which the
    decoder applies.

    Raises:
        ImageError: pi-heif cannot be imported; ``name`` is what the error calls the picture.
    """
    try:
        from pi_heif.as_plugin import HeifImageFile
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        state = "is not installed" if missing else f"does not load here ({' '.join(str(error).split())})"
        raise ImageError(name, _NO_HEIF.format(state)) from error
    stream.seek(0)
    return HeifImageFile(stream)  # directly: registering it would change Pillow for the whole program


def check_coded_sizes(stream: IO[bytes], name: str, limit: int) -> None:
    """Check every coded image of a HEIF file against the limit: a small picture may be a crop of a huge one.

    Raises:
        ImageError: one is too large; ``name`` is what the error calls the picture.
    """
    for width, height in _coded_sizes(stream):
        if max(width - _PADDING, 0) * max(height - _PADDING, 0) > limit:
            check_size((width, height), name, limit)


def _coded_sizes(stream: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Width and height of each coded image as the file declares them; libheif decodes none that is larger."""
    end = stream.seek(0, os.SEEK_END)
    start = 0
    while start + 8 <= end:
        stream.seek(start)
        header = stream.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size == 0:  # the last box
            size = end - start
        if size < 8:
            return
        if kind == b"meta":
            stream.seek(start)
            for match in _ISPE.finditer(stream.read(size)):
                width, height = struct.unpack(">II", match[1])
                yield width, height
        start += size
