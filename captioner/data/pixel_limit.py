"""The limit on an image's pixels, checked before decoding."""

from __future__ import annotations

import os

from captioner.errors import ConfigError, ImageError

DEFAULT_MAX_PIXELS = 178_956_970
"""Beyond it, a decompression bomb is more likely than an image."""

_SMALL = 4 << 20  # pixels with a negligible cost


def pixel_limit(max_pixels: int | None = None) -> int:
    """Return ``max_pixels``, else the environment variable ``CAPTIONER_MAX_PIXELS``, else the default.

    Raises:
        ConfigError: the value is not a whole number above 0.
    """
    value = os.environ.get("CAPTIONER_MAX_PIXELS") or DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels
    try:
        limit = int(value)
    except (ValueError, OverflowError):  # OverflowError: infinity
        limit = 0
    if limit < 1:
        name = "CAPTIONER_MAX_PIXELS" if max_pixels is None else "max_pixels"
        raise ConfigError(
            f"{name}: {value!r} is not a number of pixels; give a whole number above 0, such as 500000000"
        )
    return limit


def check_size(size: tuple[int, int], name: str, limit: int) -> None:
    """Check that an image has pixels, and no more than the limit.

    Raises:
        ImageError: about ``name``: it has none or too many.
    """
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(name, f"it has no pixels ({width} x {height}); give an image at least 1 pixel wide and high")
    if width * height > limit:
        raise ImageError(
            name,
            f"{width} x {height} is {width * height:,} pixels, above the limit of {limit:,}; make it smaller, or, if "
            "you trust the file, raise max_pixels or the environment variable CAPTIONER_MAX_PIXELS",
        )


def check_declared(pixels: int, size: tuple[int, int], name: str) -> None:
    """Check that at most four times the pixels of ``size`` are decoded: transparency and a crop by half double them.

    Raises:
        ImageError: about ``name``: it has more.
    """
    width, height = size
    if pixels > 4 * width * height + _SMALL:
        raise ImageError(
            name, f"it declares {width} x {height} pixels, but holds {pixels:,} to decode; save it again as PNG or JPEG"
        )
