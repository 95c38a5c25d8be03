"""Conversion of images with an ICC profile to sRGB.

The intent is perceptual, the default of Firefox and Pillow; all intents are the same for the profiles of cameras and
screens, a matrix and curves. Most profiles are sRGB: an image keeps its values if its profile changes none of a few
probe colours. The profile is tested once; the lookup takes about 2 microseconds.
"""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from threading import Lock
from typing import Any

from PIL import Image

log = logging.getLogger(__name__)

MAX_PROFILE_BYTES = 16 << 20
"""Largest size of a profile that is applied, in bytes; those of printers have about 3 MB."""

_EXPECTED = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colour space -> the image's mode
_NAMES = {"RGB": "colour", "L": "grey", "CMYK": "CMYK"}
_TOLERANCE = 2  # of 255: sRGB profiles differ by rounding
_lock = Lock()


def to_srgb(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """Convert an image to sRGB by its ICC profile.

    A profile that is broken or for another mode is ignored and logged.

    Args:
        image: of mode ``RGB``, ``RGBA``, ``L``, ``LA`` or ``CMYK``; others are returned unchanged.
        profile: the profile, if the image has one.
        name: the image's name in the log.

    Returns:
        ``image`` itself if there is nothing to convert; otherwise a new image of mode ``RGB``, or ``RGBA`` with
        transparency.
    """
    mode = {"RGBA": "RGB", "LA": "L"}.get(image.mode, image.mode)
    if not profile or mode not in _NAMES:
        return image
    try:
        if len(profile) > MAX_PROFILE_BYTES:
            raise ValueError(f"it has more than {MAX_PROFILE_BYTES:,} bytes")
        with _lock:  # a transform is made once
            transform = _transform(profile, mode)
        if transform is None:
            return image
        if image.mode not in ("LA", "RGBA"):
            return transform.apply(image)
        opaque = image.getchannel("L") if image.mode == "LA" else image.convert("RGB")
        colours: Image.Image = transform.apply(opaque)  # littleCMS would leave the transparency out
        colours.putalpha(image.getchannel("A"))
        return colours
    except Exception as error:  # the image can be read without its profile
        log.info("%s: its ICC profile is ignored (%s)", name, error)
        return image


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> Any:
    """Return the transform from a profile to sRGB, or None if it changes nothing."""
    from PIL import ImageCms  # takes a few milliseconds, and most images have no profile

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space
    if _EXPECTED.get(space) != mode:
        raise ValueError(f"it is for {space.strip()}, the image is {_NAMES[mode]}")
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    if mode == "CMYK":
        return transform
    before = _probe(mode)
    after = transform.apply(before)
    differences = (abs(a - b) for a, b in zip(before.convert("RGB").tobytes(), after.tobytes(), strict=True))
    return None if max(differences) <= _TOLERANCE else transform


def _probe(mode: str) -> Image.Image:
    """Return an image with colours of the whole range."""
    if mode == "L":
        return Image.frombytes("L", (256, 1), bytes(range(256)))
    steps = range(0, 256, 51)
    values = bytes(value for red in steps for green in steps for blue in steps for value in (red, green, blue))
    return Image.frombytes("RGB", (len(values) // 3, 1), values)
