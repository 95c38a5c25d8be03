"""Images for the tests of :mod:`captioner.data`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def scene(width: int = 80, height: int = 60, seed: int = 0) -> Image.Image:
    """A smooth random image, which JPEG compresses as well as a photo."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def distance(first: Image.Image, second: Image.Image) -> float:
    """The mean difference of two images' values, in 0..255."""
    assert first.size == second.size and first.mode == second.mode == "RGB"
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).mean())
