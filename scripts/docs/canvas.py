"""A canvas for the diagrams of the documentation, which are SVG in the colours of the page that shows them."""

from __future__ import annotations

import html
import math
from itertools import pairwise

ACCENT = "#f0a014"  # what attention weighs, as in captioner/figures/common.css
TEXT, SMALL = 15, 12.5
Point = tuple[float, float]


class Canvas:
    """A drawing of (width, height) units, from the upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, weight: float = 0.0, small: bool = False
    ) -> None:
        """Draw a box around lines of text, filled by its weight of attention, 0 to 1; the first line is bold."""
        fill = f'fill="{ACCENT}" fill-opacity="{weight:.2f}"' if weight else 'fill="currentColor" fill-opacity="0.05"'
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" {fill} stroke="currentColor" '
            'stroke-width="1.3"/>'
        )
        step = 18.0
        top = y + height / 2 - step * (len(lines) - 1) / 2 + 5
        for number, line in enumerate(lines):
            self.text(x + width / 2, top + number * step, line, bold=number == 0, small=small or number > 0)

    def text(
        self, x: float, y: float, text: str, *, bold: bool = False, small: bool = False, at: str = "middle"
    ) -> None:
        """Write a line; ``_`` lowers the character or the group in brackets after it."""
        size, weight = (SMALL if small else TEXT), ("600" if bold else "400")
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" text-anchor="{at}" '
            f'fill="currentColor">{_lowered(text)}</text>'
        )

    def arrow(self, *points: Point, dashed: bool = False, head: bool = True) -> None:
        """Draw a line through points, with a head at its end."""
        path = " ".join(f"{'L' if number else 'M'}{x:g} {y:g}" for number, (x, y) in enumerate(points))
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(f'<path d="{path}" fill="none" stroke="currentColor" stroke-width="1.3"{dash}/>')
        if head:
            (x0, y0), (x1, y1) = list(pairwise(points))[-1]
            angle = math.atan2(y1 - y0, x1 - x0)
            corners = [(x1, y1)] + [
                (x1 - 9 * math.cos(angle + turn), y1 - 9 * math.sin(angle + turn)) for turn in (0.38, -0.38)
            ]
            shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
            self._parts.append(f'<polygon points="{shape}" fill="currentColor"/>')

    def cells(self, x: float, y: float, side: float, weights: list[list[float]]) -> None:
        """Draw a grid of squares, filled by their weights, 0 to 1."""
        for row, values in enumerate(weights):
            for column, weight in enumerate(values):
                self._parts.append(
                    f'<rect x="{x + column * side:g}" y="{y + row * side:g}" width="{side:g}" height="{side:g}" '
                    f'fill="{ACCENT}" fill-opacity="{weight:.2f}" stroke="currentColor" stroke-opacity="0.5"/>'
                )

    def svg(self) -> str:
        """Return the drawing."""
        width, height = self._size
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'font-family="system-ui, sans-serif">{"".join(self._parts)}</svg>\n'
        )


def _lowered(text: str) -> str:
    parts = []
    for number, part in enumerate(text.split("_")):
        if number == 0:
            parts.append(html.escape(part))
            continue
        low, rest = (part[1:].split("}", 1)) if part.startswith("{") else (part[:1], part[1:])
        parts.append(f'<tspan font-size="75%" dy="3.5">{html.escape(low)}</tspan>')
        parts.append(f'<tspan dy="-3.5">{html.escape(rest) or "&#8203;"}</tspan>')
    return "".join(parts)
