"""The reasons of image errors, from the errors of decoders: damaged, not supported, or too large."""

from __future__ import annotations

import re

from PIL import Image

LONG_TEXT = "its text or its ICC profile is longer"
"""The beginning of the reason if a PNG has more text than Pillow reads."""

# Messages of Pillow and its libraries about intact files of formats that they do not support.
_UNSUPPORTED = re.compile(
    r"not (yet )?supported|unsupported|cannot handle|not (built|configured|implemented|available)|"
    r"unknown (pixel mode|data organization|TGA mode|TGA map depth|TGA orientation|filter category|compression)|"
    r"unable to determine J2K image mode|value for samples per pixel|cannot find loader|"
    r"sorry|can not handle",
    re.IGNORECASE,
)


def reason_for(error: Exception, kind: str, message: str | None = None) -> str:
    """Return the reason of an :class:`~captioner.errors.ImageError` for an error of a decoder.

    Args:
        error: the decoder's error.
        kind: the image's format.
        message: the message of libtiff, if there is one.
    """
    if isinstance(error, MemoryError):
        return "not enough memory to decode it; make it smaller, or free memory"
    if isinstance(error, Image.DecompressionBombError):
        return "it claims more pixels than could be decoded safely; make it smaller"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"cannot be read ({error.strerror}); check the disk or the network it is on"
    detail = message or " ".join(str(error).split()) or type(error).__name__
    if detail == "Operation on closed image":  # a Pillow image that the caller has closed
        return "it has been closed; give it before that, or a copy of it"
    if isinstance(error, ValueError) and re.search("decompressed data too large|text chunks", detail, re.IGNORECASE):
        return f"{LONG_TEXT} than can be read; save it again without"
    if "exceeds maximum scans" in detail:
        return "it has more than 100 scans, each of which takes as long to decode as a whole image; save it again"
    if isinstance(error.__cause__, KeyError) and detail.isdigit():  # it is missing in a table of Pillow
        detail = f"unknown compression {detail}"
    if detail == "string index out of range":  # in a TIFF's mode, which has a letter for each channel
        detail = "unsupported number of channels"
    if isinstance(error, NotImplementedError) or _UNSUPPORTED.search(detail):
        return f"this kind of {kind} is not supported ({detail}); convert it to an ordinary PNG or JPEG"
    return f"damaged or truncated {kind} ({detail}); get a fresh copy of it"
