"""Frames of an animated GIF that reads the caption word by word and shows where each word looked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from captioner.caption import Caption
from captioner.figures.heat import Heat
from captioner.figures.paint import fit, overlay, palette, toned
from captioner.figures.panels import mark_regions, mark_seen
from captioner.figures.sheet import INK, PALE, Sheet, shortened, width_of, wrapped
from captioner.figures.style import Style

_MIN_WIDTH = 320  # pixels; a caption would be unreadable on a narrower frame
_HIGHLIGHT = "#ffc24a"  # background of the current word


def frames(caption: Caption, image: Image.Image, style: Style) -> Iterator[tuple[Image.Image, int]]:
    """Yield each frame and its duration in milliseconds: the image, each word in turn, the image again.

    Raises:
        CaptionerError: see :class:`Heat`.
    """
    heat = Heat(caption, style)
    colours = palette(style, regions=heat.boxes is not None)
    side = max(_MIN_WIDTH, style.side // 2)
    drawn = fit(image, (side, side))
    base, maps = toned(drawn), heat.maps(drawn.size)
    text = side / 28
    margin = round(text * 0.8)
    width = max(drawn.width, _MIN_WIDTH) + 2 * margin
    words = [shortened(word, width - 2 * margin, text) for word in caption.tokens]
    lines = wrapped(words, width - 2 * margin, text)
    size = (width, margin + drawn.height + round(text * (0.9 + 1.45 * len(lines))) + margin // 2)
    at = ((width - drawn.width) // 2, margin)

    def frame(word: int | None) -> Image.Image:
        sheet = Sheet(size)
        sheet.place(
            np.asarray(drawn) if word is None else overlay(base, maps.share(word), colours),
            *at,
        )
        if word is not None:
            mark_regions(sheet, heat, word, at, drawn.size, text * 0.8)
        mark_seen(sheet, caption.seen, at, drawn.size)
        for number, line in enumerate(lines):
            widths = [width_of(words[i], text) for i in line]
            space = width_of("a a", text) - 2 * width_of("a", text)
            x = (width - sum(widths) - space * (len(line) - 1)) / 2
            for i, word_width in zip(line, widths, strict=True):
                y = at[1] + drawn.height + text * (1.5 + 1.45 * number)
                colour, ground = INK if word in (i, None) else PALE, _HIGHLIGHT if i == word else None
                sheet.text(x, y, words[i], text, colour=colour, ground=ground)
                x += word_width + space
        return sheet.image()

    duration = round(1000 * style.seconds)
    yield frame(None), round(1.5 * duration)
    for word in range(len(words)):
        yield frame(word), duration
    yield frame(None), 2 * duration


def reduced(frame: Image.Image) -> Image.Image:
    """Reduce a frame to the 256 colours of a GIF, dithered, for which Pillow needs an explicit palette."""
    return frame.quantize(palette=frame.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
