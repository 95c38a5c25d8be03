"""PNG files with intact pixels whose text, ICC profile or the like is damaged or longer than Pillow reads."""

from __future__ import annotations

import logging
import re
import struct
import zlib
from typing import IO

from captioner.data.colour import MAX_PROFILE_BYTES
from captioner.data.reasons import LONG_TEXT
from captioner.data.streams import CountedBytes
from captioner.errors import ImageError

log = logging.getLogger(__name__)

# Chunks that decoding does without. Others are kept: they may hold pixels under a damaged name.
_OPTIONAL = {b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"bKGD", b"hIST", b"sBIT", b"sPLT"}
_NEEDED = re.compile(rb"PLTE|IDAT|tRNS|eXIf|iCCP")


class PngWithoutText(CountedBytes):
    """A PNG without its text; its profile is an attribute."""

    profile: bytes | None = None


def may_be_about_text(error: ImageError) -> bool:
    """Return whether the text or profile of a PNG may be the only reason of an error."""
    return error.reason.startswith((LONG_TEXT, "damaged or truncated PNG", "this kind of PNG"))


def without_text(stream: IO[bytes], name: str) -> PngWithoutText:
    """Copy a PNG without its text and its profile; ``name`` is its name in errors."""
    stream.seek(0)
    data = stream.read()
    kept, start, profile = [data[:8]], 8, None
    if not data.startswith(b"\x89PNG"):  # an icon with a PNG inside
        kept, start = [data], len(data)
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        intact = data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[start + 4 : end - 4]))
        # With a wrong length, no chunk follows the end, or the chunk includes others.
        if not intact and (not data[end + 4 : end + 8].isalpha() or _NEEDED.search(data, start + 8, end)):
            kept.append(data[start:])
            break
        if kind == b"iCCP":
            compressed = data[start + 8 : end - 4].partition(b"\0")[2][1:] if intact else b"damaged"
            try:
                profile = zlib.decompressobj().decompress(compressed, MAX_PROFILE_BYTES + 1)
            except zlib.error:
                log.info("%s: its ICC profile is ignored (it is damaged)", name)
        elif kind not in _OPTIONAL:
            kept.append(data[start:end])
        start = end
    copy = PngWithoutText(b"".join(kept), name)
    copy.profile = profile
    return copy
