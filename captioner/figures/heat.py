"""Attention as a map over the image.

The weights of a grid, such as 14x14, are interpolated over the image by a Gaussian: the map at a point is the weighted
mean of all attention weights, with coefficients ``exp(-d^2 / (2 s^2))``, where ``d`` is the distance in cells from the
point to the centre of the weight's cell and ``s`` is :attr:`Style.smoothing`. The map therefore lies between zero and
the largest weight, uniform attention stays uniform, and smoothing 0 draws plain cells. The weights of regions are not
smoothed: the map at a point is the largest weight of the boxes that contain it, as a sum would be highest where many
boxes overlap, also without attention.

Only attention above uniform, 1 / N, is coloured: uniform attention is a large share of the maximum and would veil the
image.

Letters in shapes: T words, N regions or cells, H and W height and width in pixels of the image as drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from captioner.caption import Array, Caption
from captioner.data.transform import Box
from captioner.errors import CaptionerError
from captioner.figures.style import Style


class Region(NamedTuple):
    """A region to outline.

    Attributes:
        box: x0, y0, x1, y1, relative to the whole image.
        weight: the word's attention to it.
        label: the detector's label of it; empty if there is none.
    """

    box: Box
    weight: float
    label: str = ""


def require_attention(caption: Caption) -> Array:
    """Return the attention (T, N) of a caption to regions or cells of an image.

    Raises:
        CaptionerError: its model does not attend, or not to regions or cells of an image.
    """
    if caption.attention is None:
        raise CaptionerError(
            "this caption has no attention to show, because its model does not attend; "
            "use a model that does, such as show_attend_tell"
        )
    if caption.grid is None and caption.boxes is None:
        raise CaptionerError("this caption has no attention over an image, so there is nothing to draw")
    return caption.attention


class Heat:
    """Attention of each word of a caption.

    Args:
        caption: a caption with attention over an image.
        style: smoothing and scale.

    Attributes:
        weights: (T, N) float64.
        uniform: the weight of each region or cell under uniform attention, 1 / N.
        boxes: (N, 4), relative to the whole image; ``None`` for the cells of a grid.

    Raises:
        CaptionerError: see :func:`require_attention`.
    """

    def __init__(self, caption: Caption, style: Style) -> None:
        self.weights: Array = require_attention(caption).astype(np.float64)
        self.grid, self.seen, self.style, self.labels = caption.grid, caption.seen, style, caption.labels
        self.uniform = 1 / self.weights.shape[1]
        self.boxes: Array | None = None
        if caption.grid is None and caption.boxes is not None:
            x0, y0, x1, y1 = caption.seen
            self.boxes = caption.boxes.astype(np.float64) * [x1 - x0, y1 - y0, x1 - x0, y1 - y0] + [x0, y0, x0, y0]
        self._highest = [self._height(weights) for weights in self.weights]

    def peak(self, word: int) -> float:
        """Return the largest weight of a word."""
        return float(self.weights[word].max(initial=0))

    def top(self, word: int) -> float:
        """Return the weight drawn in the last colour: the map's maximum, but at least four times uniform attention.

        The lower bound keeps nearly uniform attention pale.
        """
        highest = self._highest[word] if self.style.scale == "word" else max(self._highest)
        return max(highest, min(1.0, 4 * self.uniform))

    def share(self, word: int, weights: Array) -> Array:
        """Return how strongly weights of a word are coloured, 0..1: 0 up to uniform attention, 1 is the last colour."""
        # A single region never has more than uniform attention.
        return np.clip((weights - self.uniform) / max(self.top(word) - self.uniform, 1e-9), 0, 1)

    def _height(self, weights: Array) -> float:
        """Return a map's maximum; that of a grid is sampled at 4x4 points per cell."""
        if self.boxes is not None:
            return float(weights.max(initial=0))
        assert self.grid is not None
        down, across = (_spread(4 * cells, cells, (0, 1), self.style.smoothing) for cells in self.grid)
        return float((down @ weights.reshape(self.grid) @ across.T).max())

    def maps(self, size: tuple[int, int]) -> _Maps:
        """Return a callable that draws the maps for an image of (width, height) pixels."""
        return _Maps(self, size)

    def regions(self, word: int, most: int = 4) -> list[Region]:
        """Return at most ``most`` of a word's strongest regions, strongest first; a grid has none.

        Each has at least a third of the weight of the first. If regions are labelled, those without a label, which are
        cells of a grid, are left out.
        """
        if self.boxes is None:
            return []
        weights = self.weights[word]
        if self.labels is not None and any(self.labels):
            weights = weights * [bool(label) for label in self.labels]
        order = np.argsort(-weights, kind="stable")[:most]
        strong = [i for i in order if weights[i] > 0 and 3 * weights[i] >= weights[order[0]]]
        return [
            Region(tuple(self.boxes[i].tolist()), float(weights[i]), self.labels[i] if self.labels else "")
            for i in strong
        ]


class _Maps:
    def __init__(self, heat: Heat, size: tuple[int, int]) -> None:
        self.heat, self.size = heat, size
        x0, y0, x1, y1 = heat.seen
        if heat.boxes is None:
            assert heat.grid is not None
            self._down = _spread(size[1], heat.grid[0], (y0, y1), heat.style.smoothing)
            self._across = _spread(size[0], heat.grid[1], (x0, x1), heat.style.smoothing)

    def __call__(self, word: int) -> Array:
        """Return a word's map (H, W) of weights."""
        weights = self.heat.weights[word]
        if self.heat.boxes is not None:
            return _largest(self.heat.boxes, weights, self.size)
        out: Array = self._down @ weights.reshape(self._down.shape[1], -1) @ self._across.T
        return out

    def share(self, word: int) -> Array:
        """Return how strongly a word's map (H, W) is coloured; see :meth:`Heat.share`."""
        return self.heat.share(word, self(word))


def _spread(pixels: int, cells: int, seen: tuple[float, float], smoothing: float) -> Array:
    """Return the coefficient of each cell at each pixel of one axis, (pixels, cells).

    Rows sum to one, or to zero outside the part that the model saw.
    """
    at = (np.arange(pixels) + 0.5) / pixels
    at = (at - seen[0]) / (seen[1] - seen[0]) * cells
    inside = (at >= 0) & (at <= cells)
    if smoothing < 0.05:  # so narrow a Gaussian covers one cell only, and would underflow between cell centres
        out = np.floor(np.clip(at, 0, cells - 1e-9))[:, None] == np.arange(cells)
        return out * inside[:, None].astype(float)
    score = -0.5 * ((at[:, None] - np.arange(cells) - 0.5) / smoothing) ** 2
    out = np.exp(score - score.max(1, keepdims=True))
    return out / out.sum(1, keepdims=True) * inside[:, None]


def _largest(boxes: Array, weights: Array, size: tuple[int, int]) -> Array:
    """Return the largest weight of the boxes that contain each pixel, (H, W), for a (width, height)."""
    width, height = size
    out = np.zeros((height, width))
    edges = np.rint(np.clip(boxes, 0, 1) * [width, height, width, height]).astype(int)
    x0, y0 = np.minimum(edges[:, 0], width - 1), np.minimum(edges[:, 1], height - 1)
    x1, y1 = np.maximum(edges[:, 2], x0 + 1), np.maximum(edges[:, 3], y0 + 1)  # no box is thinner than a pixel
    for n in np.argsort(weights, kind="stable"):  # a larger one covers the others
        out[y0[n] : y1[n], x0[n] : x1[n]] = weights[n]
    return out
