"""PNG files whose text, ICC profile or the like is damaged, or longer than Pillow reads: their pixels are sound."""

from __future__ import annotations

import logging
import re
import struct
import zlib
from typing import IO

from captioner.data.colour import LONGEST_PROFILE
from captioner.data.reasons import LONG_TEXT
from captioner.data.streams import CountedBytes
from captioner.errors import ImageError

log = logging.getLogger(__name__)

# Chunks beside the pixels. No other is left out, since it may be one of the pixels' with a damaged name.
_BESIDE = {b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"bKGD", b"hIST", b"sBIT", b"sPLT"}
_OTHERS = re.compile(rb"PLTE|IDAT|tRNS|eXIf|iCCP")


class PngWithoutText(CountedBytes):
    """A PNG without its text, and its profile beside it."""

    profile: bytes | None = None


def may_be_about_text(error: ImageError) -> bool:
    """Whether a PNG may have been refused for its text or profile alone."""
    return error.reason.startswith((LONG_TEXT, "damaged or truncated PNG", "this kind of PNG"))


def without_text(stream: IO[bytes], name: str) -> PngWithoutText:
    """Copy a PNG without its text and its profile.

    Args:
        stream: the file.
        name: what an error calls the image.
    """
    stream.seek(0)
    data = stream.read()
    kept, place, profile = [data[:8]], 8, None
    if not data.startswith(b"\x89PNG"):  # an icon with a PNG inside
        kept, place = [data], len(data)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        sound = data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[place + 4 : end - 4]))
        # A wrong length ends a chunk where none follows, or puts others into it.
        if not sound and (not data[end + 4 : end + 8].isalpha() or _OTHERS.search(data, place + 8, end)):
            kept.append(data[place:])
            break
        if kind == b"iCCP":
            compressed = data[place + 8 : end - 4].partition(b"\0")[2][1:] if sound else b"damaged"
            try:
                profile = zlib.decompressobj().decompress(compressed, LONGEST_PROFILE + 1)
            except zlib.error:
                log.info("%s: its ICC profile is ignored (it is damaged)", name)
        elif kind not in _BESIDE:
            kept.append(data[place:end])
        place = end
    copy = PngWithoutText(b"".join(kept), name)
    copy.profile = profile
    return copy
