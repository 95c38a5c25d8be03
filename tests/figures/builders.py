"""Captions with made-up attention, and images for them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from captioner.caption import Caption


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return weights (T, N) float32 from scores."""
    weights = np.exp(scores)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def grid_caption(
    words: int = 4,
    grid: tuple[int, int] = (3, 4),
    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    text: str | None = None,
) -> Caption:
    tokens = [f"word{i}" for i in range(words)] if text is None else text.split()
    attention = softmax(2 * np.random.default_rng(3).standard_normal((len(tokens), grid[0] * grid[1])))
    return Caption(" ".join(tokens).capitalize() + ".", tokens, -7.5, attention, grid=grid, seen=seen)


def region_caption(seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)) -> Caption:
    """Two words and three regions: the upper left quarter, the lower half, and the lower right quarter within it."""
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.0, 0.5, 1.0, 1.0], [0.5, 0.5, 1.0, 1.0]])
    attention = np.array([[0.7, 0.2, 0.1], [0.05, 0.5, 0.45]])
    return Caption("Cat sits.", ["cat", "sits"], -2.0, attention, boxes=boxes, seen=seen)


def make_image(width: int = 80, height: int = 60) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
