"""A white sheet for images and text, with pixel coordinates from its upper left corner.

It is drawn with matplotlib's object-oriented interface, because pyplot would keep every figure in memory.
"""

from __future__ import annotations

import io
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from PIL import Image

from captioner.caption import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 200
INK, PALE = "#1a1a1a", "#767676"

# Matplotlib's own font first, for the same figures everywhere; then installed fonts with other scripts.
_FONTS = (
    "DejaVu Sans|Noto Sans|Noto Sans CJK SC|Noto Sans CJK JP|Noto Sans Arabic|Noto Sans Devanagari|Noto Sans Hebrew|"
    "Noto Sans Thai|PingFang SC|Hiragino Sans|Microsoft YaHei|Yu Gothic|Malgun Gothic|WenQuanYi Micro Hei|"
    "Arial Unicode MS"
)


@cache
def _fonts() -> tuple[str, ...]:
    installed = set(fontManager.get_font_names())
    return tuple(name for name in _FONTS.split("|") if name in installed)


@lru_cache(maxsize=64)
def _font(size: float, weight: str) -> FontProperties:
    return FontProperties(family=list(_fonts()), size=size * 72 / DPI, weight=weight)


def width_of(text: str, size: float, weight: str = "normal") -> float:
    """Return the width of a line of text in pixels, for letters of ``size`` pixels."""
    return float(text_to_path.get_text_width_height_descent(text, _font(size, weight), ismath=False)[0]) * DPI / 72


def wrapped(words: list[str], width: float, size: float, weight: str = "normal") -> list[list[int]]:
    """Break words into lines of at most ``width`` pixels; return the word indices of each line.

    A word that is too long has its own line.
    """
    space = width_of("a a", size, weight) - 2 * width_of("a", size, weight)
    lines: list[list[int]] = []
    left = -1.0
    for number, word in enumerate(words):
        needed = width_of(word, size, weight)
        if left < space + needed:
            lines.append([])
            left = width + space
        lines[-1].append(number)
        left -= space + needed
    return lines


def shortened(text: str, width: float, size: float, weight: str = "normal") -> str:
    """Return the text, cut with an ellipsis if it is wider than ``width`` pixels."""
    if width_of(text, size, weight) <= width:
        return text
    low, high = 0, len(text)  # bounds of the length of the longest prefix that fits
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if width_of(text[:middle].rstrip() + "…", size, weight) <= width else (low, middle - 1)
        )
    return text[:low].rstrip() + "…"


class Sheet:
    """A sheet of (width, height) pixels."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._pixels: Array = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
        self._figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
        FigureCanvasAgg(self._figure)
        self._axes: Axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._axes.set_xlim(0, size[0])
        self._axes.set_ylim(size[1], 0)

    def place(self, pixels: Array, x: int, y: int) -> None:
        """Place an image (H, W, 3) uint8 with its upper left corner at (x, y)."""
        self._pixels[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        colour: str = INK,
        weight: str = "normal",
        align: Literal["left", "center", "right"] = "left",
        ground: str | None = None,
        turned: bool = False,
    ) -> None:
        """Draw a line of text; no character in it has a special meaning.

        Args:
            x: anchor of the alignment in pixels.
            y: baseline in pixels.
            text: the text.
            size: letter height in pixels.
            colour: colour of the letters.
            weight: font weight.
            align: horizontal alignment at ``x``.
            ground: background colour; ``None`` for no background.
            turned: by a quarter, running upwards; ``x`` is then its middle, and ``y`` where it begins.
        """
        ground_box = (
            None
            if ground is None
            else {"facecolor": ground, "edgecolor": "none", "pad": size * 0.14 * 72 / DPI, "alpha": 0.85}
        )
        self._axes.text(
            x,
            y,
            text,
            color=colour,
            fontproperties=_font(size, weight),
            ha="center" if turned else align,
            va="bottom" if turned else "baseline",
            rotation=90 if turned else 0,
            rotation_mode="default",
            parse_math=False,
            bbox=ground_box,
            zorder=3,
        )

    def frame(
        self,
        box: tuple[float, float, float, float],
        *,
        colour: str,
        width: float,
        dashed: bool = False,
        opacity: float = 1.0,
    ) -> None:
        """Outline a box (x0, y0, x1, y1) with a line of ``width`` pixels, dark-edged to show on any background."""
        x0, y0, x1, y1 = box
        for edge, extra in (("#000000", 1.5), (colour, 0.0)):
            points = (width + extra) * 72 / DPI
            style = (0, (4, 3)) if dashed and not extra else "solid"
            self._axes.add_patch(
                Rectangle(
                    (x0, y0),
                    x1 - x0,
                    y1 - y0,
                    fill=False,
                    edgecolor=edge,
                    linewidth=points,
                    linestyle=style,
                    alpha=(0.45 if extra else 1) * opacity,
                    zorder=2,
                )
            )

    def figure(self) -> Figure:
        """Return the sheet as a matplotlib figure, which can also be saved as PDF or SVG."""
        width, height = self.size
        # Aligned with whole pixels, which draws each unchanged.
        self._axes.imshow(self._pixels, extent=(0, width, height, 0), interpolation="nearest", aspect="auto", zorder=1)
        return self._figure

    def printed(self, kind: Literal["pdf", "svg"], metadata: dict[str, str | None]) -> bytes:
        """Return the sheet as a vector file: text and outlines are vectors, images keep their pixels."""
        stream = io.BytesIO()
        with rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "captioner"}):
            self.figure().savefig(stream, format=kind, metadata=metadata)
        return stream.getvalue()

    def image(self) -> Image.Image:
        """Draw the sheet and clear its figure.

        Otherwise its reference cycles would keep the pixels in memory until the next garbage collection.
        """
        canvas = FigureCanvasAgg(self.figure())
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        for artist in self._axes.images:
            artist.set_data(np.zeros((1, 1, 3), dtype=np.uint8))
        self._figure.clear()
        canvas.renderer = None
        return image
