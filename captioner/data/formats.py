"""The formats of images that can be read, with what each needs."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from PIL import features


class _Format(NamedTuple):
    """A format of images.

    Attributes:
        name: for people.
        codec: Pillow's name of the library that decodes it, if Pillow can be built without that.
        package: the package that decodes it, if Pillow does not.
    """

    name: str
    codec: str = ""
    package: str = ""


_FORMATS = (  # those of most photos first
    _Format("JPEG", "jpg"),
    _Format("PNG", "zlib"),
    _Format("WebP", "webp"),
    _Format("HEIC", package="pi_heif"),
    _Format("AVIF", "avif"),
    _Format("GIF"),
    _Format("TIFF", "libtiff"),
    _Format("BMP"),
    _Format("JPEG 2000", "jpg_2000"),
    _Format("JPEG XL", package="pillow_jxl"),
    _Format("raw photos of cameras", package="rawpy"),
    _Format("PPM"),
    _Format("TGA"),
    _Format("ICO"),
    _Format("CUR"),
)


@cache
def readable_formats() -> tuple[str, ...]:
    """Return the names of the formats that this installation reads, those of most photos first."""
    lacking = {name for name, found in pillow_formats().items() if not found}
    return tuple(
        each.name
        for each in _FORMATS
        if each.name not in lacking and (not each.package or find_spec(each.package) is not None)
    )


def pillow_formats() -> dict[str, bool]:
    """Return whether this Pillow reads each format that needs another library, by the format's name."""
    known = features.modules.keys() | features.codecs.keys()  # check() warns about others, which older releases lack
    return {each.name: each.codec in known and bool(features.check(each.codec)) for each in _FORMATS if each.codec}
