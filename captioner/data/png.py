"""PNG files with more text, or a longer ICC profile, than Pillow reads: their pixels are sound."""

from __future__ import annotations

import struct
import zlib
from typing import IO

from captioner.data.colour import LONGEST_PROFILE
from captioner.data.reasons import LONG_TEXT
from captioner.data.streams import CountedBytes
from captioner.errors import ImageError


class PngWithoutText(CountedBytes):
    """A PNG without its text, and its profile beside it."""

    profile: bytes | None = None


def is_about_text(error: ImageError) -> bool:
    """Whether a PNG was refused for its text or profile alone."""
    return error.reason.startswith(LONG_TEXT)


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
        if kind == b"iCCP":
            compressed = data[place + 8 : end - 4].partition(b"\0")[2][1:]
            try:
                profile = zlib.decompressobj().decompress(compressed, LONGEST_PROFILE + 1)
            except zlib.error:
                profile = None
        elif kind not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(data[place:end])
        place = end
    copy = PngWithoutText(b"".join(kept), name)
    copy.profile = profile
    return copy
