"""Encoded images and errors for the tests of :mod:`captioner.data`."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, features

from captioner.data.images import load_image
from captioner.errors import ImageError

pillow_heif.register_heif_opener()  # to write HEIC

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NO_AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")

KINDS: dict[str, dict[str, Any]] = {  # options that keep colours
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "DIB": {},
    "TIFF": {"compression": "tiff_lzw"},
    "PPM": {},
    "TGA": {},
    "ICO": {"sizes": [(80, 60)]},
    "JPEG2000": {"irreversible": False},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIF": {"quality": -1, "chroma": 444, "matrix_coefficients": 0},
}


def kinds(*names: str) -> list[Any]:
    """The formats as parameters, AVIF only if this Pillow has it."""
    return [pytest.param(name, marks=NO_AVIF) if name == "AVIF" else name for name in names or KINDS]


def scene(width: int = 80, height: int = 60, seed: int = 0) -> Image.Image:
    """A smooth random image that JPEG compresses well."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes = b"", checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", right if checksum is None else checksum)


def declaring(content: bytes, width: int, height: int) -> bytes:
    """A HEIF or AVIF file with another size declared for its coded image."""
    start = content.index(b"ispe") + 8
    return content[:start] + struct.pack(">II", width, height) + content[start + 8 :]


def distance(first: Image.Image, second: Image.Image) -> float:
    """The mean difference of two images' values, in 0..255."""
    assert first.size == second.size and first.mode == second.mode == "RGB"
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).mean())


def refusal(source: Any, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        load_image(source, **options)
    return caught.value
