"""A sheet with a panel for each word, or one large panel for a single word.

The layout follows figure 3 of Show, Attend and Tell (Xu et al. 2015, https://arxiv.org/abs/1502.03044).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from captioner.caption import Array, Caption
from captioner.data.transform import Box
from captioner.figures.heat import Heat
from captioner.figures.paint import fit, overlay, palette, toned
from captioner.figures.sheet import INK, PALE, Sheet, shortened, width_of, wrapped
from captioner.figures.style import Style

_WIDEST, _TALLEST = 60.0, 0.4  # limits of a panel's width / height; an image beyond them does not fill its panel
_TARGET = 0.7  # height / width of all panels together


@dataclass(frozen=True)
class PanelLayout:
    """The layout of the panels on a sheet, in pixels.

    Attributes:
        columns: panels per row.
        rows: number of rows.
        panel: width and height of a panel.
        head: height of the line above a panel.
        gap: horizontal and vertical gap between panels.
    """

    columns: int
    rows: int
    panel: tuple[int, int]
    head: int
    gap: int

    @property
    def height(self) -> int:
        """Height of all rows with the gaps between them."""
        return self.rows * (self.panel[1] + self.head) + (self.rows - 1) * self.gap


def arrange(panels: int, shape: float, width: int, text: float) -> PanelLayout:
    """Choose the number of columns.

    The choice balances the shape of the whole, few gaps in the last row, and panels wide enough for a word.

    Args:
        panels: number of panels.
        shape: width / height of the image.
        width: available width in pixels.
        text: letter height above the panels in pixels.
    """
    shape = min(_WIDEST, max(_TALLEST, shape))
    gap, head = round(text * 0.9), round(text * 1.5)
    best: tuple[float, PanelLayout] | None = None
    for columns in range(1, max(panels, 4) + 1):
        across = (width - (columns - 1) * gap) // columns
        if columns > 1 and across < 4 * text:
            break
        rows = math.ceil(panels / columns)
        layout = PanelLayout(columns, rows, (across, max(1, round(across / shape))), head, gap)
        empty = (rows * columns - panels) / columns
        narrow = max(0.0, math.log(7 * text / across))  # the typical width of a word with its number
        cost = abs(math.log(layout.height / width / _TARGET)) + 1.1 * empty + narrow
        if best is None or cost < best[0]:
            best = cost, layout
    assert best is not None
    return best[1]


def sheet(caption: Caption, image: Image.Image, style: Style, note: str = "") -> Sheet:
    """Lay out the image and a panel for each word, in reading order.

    The word and its largest weight are above each panel.

    Args:
        caption: a caption with attention.
        image: the whole image, upright.
        style: style of the sheet.
        note: additional text below, for example the attention head.

    Raises:
        CaptionerError: see :class:`Heat`.
    """
    heat = Heat(caption, style)
    colours = palette(style, regions=heat.boxes is not None)
    unit = style.width / 100
    letters = unit * style.letters
    title, small = 2.0 * letters, 1.2 * letters
    margin = round(2.2 * unit)
    inner = style.width - 2 * margin
    count = len(caption.tokens) + 1
    text = 1.55 * letters
    layout = arrange(count, image.width / image.height, inner, text)
    words = caption.text.split()
    lines = [" ".join(words[i] for i in line) for line in wrapped(words, inner, title)]
    top = margin + round(len(lines) * title * 1.45 + 0.6 * unit)
    page = Sheet((style.width, top + layout.height + round(2.4 * unit) + round(small * 1.2) + margin))
    for number, line in enumerate(lines):
        page.text(margin, margin + title * (0.8 + 1.45 * number), shortened(line, inner, title), title)

    drawn = fit(image, layout.panel)
    base, maps = toned(drawn), heat.maps(drawn.size)
    for number in range(count):
        row, column = divmod(number, layout.columns)
        x = margin + column * (layout.panel[0] + layout.gap)
        y = top + row * (layout.panel[1] + layout.head + layout.gap) + layout.head
        at = (x, y)
        baseline = y - text * 0.45
        if number == 0:
            page.text(x, baseline, shortened("image", layout.panel[0], text), text, colour=PALE)
            page.place(np.asarray(drawn), *at)
            mark_seen(page, caption.seen, at, drawn.size)
            continue
        word = number - 1
        page.place(overlay(base, maps.share(word), colours), *at)
        mark_regions(page, heat, word, at, drawn.size, small)
        mark_seen(page, caption.seen, at, drawn.size)
        name, peak = caption.tokens[word], percent(heat.peak(word))
        needed = width_of(name, text, "bold") + 0.5 * text + width_of(peak, small)
        across = min(layout.panel[0], max(drawn.width, 4 * text, needed))
        if across < needed:  # the word takes precedence over its number
            name, peak = shortened(name, layout.panel[0], text, "bold"), ""
        page.text(x, baseline, name, text, weight="bold")
        page.text(x + across, baseline, peak, small, colour=PALE, align="right")
    _legend(
        page,
        style,
        colours,
        margin,
        page.size[1] - margin,
        small,
        "above each panel: the word's largest weight",
        note,
    )
    return page


def single(caption: Caption, image: Image.Image, style: Style, word: int, note: str = "") -> Sheet:
    """Lay out one large panel: the caption with one word highlighted, and below it where that word looked.

    Args:
        caption: a caption with attention.
        image: the whole image, upright.
        style: style of the sheet.
        word: index of the word.
        note: additional text below, for example the attention head.

    Raises:
        CaptionerError: see :class:`Heat`.
    """
    heat = Heat(caption, style)
    colours = palette(style, regions=heat.boxes is not None)
    unit = style.width / 100
    title, small, margin = 2.4 * unit * style.letters, 1.5 * unit * style.letters, round(2.2 * unit)
    inner = style.width - 2 * margin
    drawn = fit(image, (inner, inner))
    inner = max(drawn.width, inner // 2)  # a tall image makes a narrow sheet, but wide enough to read the caption
    words = [shortened(token, inner, title, "bold") for token in caption.tokens]
    lines = wrapped(words, inner, title, "bold")
    top = margin + round(len(lines) * title * 1.45 + 0.4 * unit)
    page = Sheet((inner + 2 * margin, top + drawn.height + round(1.6 * unit) + round(small * 1.2) + margin))
    space = width_of("a a", title) - 2 * width_of("a", title)
    for number, line in enumerate(lines):
        x = float(margin)
        for i in line:
            weight, colour = ("bold", INK) if i == word else ("normal", PALE)
            page.text(x, margin + title * (0.8 + 1.45 * number), words[i], title, weight=weight, colour=colour)
            x += width_of(words[i], title, weight) + space
    at = (margin + (inner - drawn.width) // 2, top)
    page.place(overlay(toned(drawn), heat.maps(drawn.size).share(word), colours), *at)
    mark_regions(page, heat, word, at, drawn.size, small)
    mark_seen(page, caption.seen, at, drawn.size)
    _legend(page, style, colours, margin, page.size[1] - margin, small, f"peak {percent(heat.peak(word))}", note)
    return page


def mark_regions(page: Sheet, heat: Heat, word: int, at: tuple[int, int], size: tuple[int, int], text: float) -> None:
    """Outline a word's strongest regions with opacities proportional to their weights, and label the strongest.

    Args:
        page: the sheet to draw on.
        heat: the attention of the caption.
        word: index of the word.
        at: (x, y) of the image's upper left corner on the sheet, in pixels.
        size: width and height of the image in pixels.
        text: letter height in pixels.
    """
    regions = heat.regions(word)
    for region in reversed(regions):
        x0, y0, x1, y1 = _on(region.box, at, size)
        page.frame((x0, y0, x1, y1), colour="#ffffff", width=text / 7, opacity=region.weight / regions[0].weight)
    if regions:
        x0, y0, x1, y1 = _on(regions[0].box, at, size)
        label = (
            f"{shortened(regions[0].label, max(0.0, size[0] - 5 * text), text)} {percent(regions[0].weight)}".strip()
        )
        x = min(max(x0, at[0]) + text * 0.45, at[0] + size[0] - width_of(label, text) - text * 0.3)
        y = min(max(y0, at[1]) + text * 1.25, at[1] + size[1] - text * 0.4)
        page.text(x, y, label, text, colour="#ffffff", ground="#000000")


def percent(weight: float) -> str:
    """Format a weight in percent, with one decimal below 10 % and none above."""
    return f"{100 * weight:.0f} %" if weight >= 0.0995 else f"{100 * weight:.1f} %"


def _on(box: Box, at: tuple[int, int], size: tuple[int, int]) -> Box:
    """Convert a box relative to the image into pixels (x0, y0, x1, y1) of the sheet."""
    return (at[0] + box[0] * size[0], at[1] + box[1] * size[1], at[0] + box[2] * size[0], at[1] + box[3] * size[1])


def mark_seen(page: Sheet, seen: Box, at: tuple[int, int], size: tuple[int, int]) -> None:
    """Outline the part of the image that the model saw, unless it saw the whole image."""
    if max(seen[0], seen[1], 1 - seen[2], 1 - seen[3]) > 0.005:
        page.frame(_on(seen, at, size), colour="#ffffff", width=page.size[0] / 900, dashed=True)


def _legend(page: Sheet, style: Style, colours: Array, left: int, bottom: int, text: float, *notes: str) -> None:
    """Draw the colour scale, from uniform attention up, on grey like an image under a map, and explain it."""
    width, height = round(14 * text), max(3, round(0.75 * text))
    ramp = np.repeat(np.linspace(0, 1, width)[None], height, axis=0)
    grey = np.full((height, width, 3), 0.75, dtype=np.float32)
    x = left + round(width_of("uniform", text) + 0.5 * text)
    page.place(overlay(grey, ramp, colours), x, bottom - height)
    page.text(left, bottom, "uniform", text, colour=PALE)
    scope = "the word" if style.scale == "word" else "the caption"
    legend = "  ·  ".join((f"strongest of {scope}", *filter(None, notes)))
    after = x + width + 0.5 * text
    page.text(after, bottom, shortened(legend, page.size[0] - left - after, text), text, colour=PALE)
