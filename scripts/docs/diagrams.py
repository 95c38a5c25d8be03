"""Draw the diagrams of the documentation as SVG, in the colours of the page: docs/figures.

``NAME.svg`` is for wide pages, ``NAME_phone.svg`` for phones (:mod:`diagrams_phone`).

Example: python scripts/docs/diagrams.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import diagrams_phone
from canvas import Canvas
from diagrams_phone import levels

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"


def parts() -> str:
    """An encoder, a memory, a decoder and a search."""
    draw = Canvas(720, 178)
    draw.box(6, 50, 92, 66, "image", "or sentence")
    draw.box(132, 50, 112, 66, "encoder", "once an image")
    draw.text(340, 30, "memory", bold=True)
    for number, weight in enumerate((0.08, 0.75, 0.3, 0.12, 0.05)):
        draw.box(280, 42 + 17 * number, 120, 14, weight=weight)
    draw.text(340, 146, "N vectors, and where each lies", small=True)
    draw.box(438, 50, 112, 66, "decoder", "once a word")
    draw.box(598, 50, 112, 66, "search", "hypotheses")
    for start, end in ((98, 132), (244, 280), (550, 598)):
        draw.arrow((start, 83), (end, 83))
    draw.arrow((438, 83), (400, 66))
    draw.arrow((400, 100), (438, 92))
    draw.text(574, 76, "p", small=True)
    draw.arrow((654, 116), (654, 146), (494, 146), (494, 116))
    draw.text(574, 164, "the words so far", small=True)
    return draw.svg()


def memories(columns: int = 3, width: int = 240) -> str:
    """What each model of the lineage attends to while it writes a word."""
    titles = (
        ("seq2seq", "one vector of the sentence"),
        ("Bahdanau attention", "a vector of every word"),
        ("Show and Tell", "one vector of the image"),
        ("Show, Attend and Tell", "a grid of 14×14 cells"),
        ("top-down", "up to 36 regions"),
        ("Transformer", "cells attend to cells"),
    )
    draw = Canvas(columns * width, 186 * len(titles) // columns - 12)
    centres = [(width // 2 + number % columns * width, number // columns * 186) for number in range(len(titles))]
    for (x, y), (title, note) in zip(centres, titles, strict=True):
        draw.text(x, y + 20, title, bold=True)
        draw.text(x, y + 158, note, small=True)
    sentence, words, image, grid, regions, cells = centres
    for x, y in (sentence, words):
        for number, word in enumerate(("two", "dogs", "run")):
            at = x - 60 + number * 60
            draw.text(at, y + 52, word, small=True)
            draw.arrow((at, y + 58), (at, y + 74) if y or x == words[0] else (x + (at - x) * 0.35, y + 96))
            if x == words[0]:
                draw.box(at - 25, y + 76, 50, 46, weight=(0.1, 0.85, 0.2)[number])
    draw.box(sentence[0] - 40, sentence[1] + 98, 80, 24, weight=0.5)
    draw.box(image[0] - 58, image[1] + 42, 116, 84)
    draw.box(image[0] - 40, image[1] + 72, 80, 24, weight=0.5)
    heat = [[math.exp(-((r - 2.2) ** 2 + (c - 4.1) ** 2) / 2.6) * 0.85 + 0.04 for c in range(7)] for r in range(5)]
    draw.cells(grid[0] - 59.5, grid[1] + 42, 17, heat)
    draw.box(regions[0] - 58, regions[1] + 42, 116, 84)
    for x, y, wide, high, weight in ((-48, 70, 46, 44, 0.75), (-10, 54, 40, 62, 0.3), (22, 86, 26, 30, 0.12)):
        draw.box(regions[0] + x, regions[1] + y, wide, high, weight=weight)
    turns = [number * math.tau / 7 for number in range(7)]
    points = [(cells[0] + 46 * math.cos(turn), cells[1] + 84 + 36 * math.sin(turn)) for turn in turns]
    for number, one in enumerate(points):
        for other in points[number + 1 :]:
            draw.arrow(one, other, head=False)
    for (x, y), weight in zip(points, (0.95, 0.6, 0.35, 0.3, 0.35, 0.5, 0.8), strict=True):
        draw.cells(x - 8, y - 8, 16, [[weight]])
    return draw.svg()


def attend_step() -> str:
    """One word of Show, Attend and Tell."""
    draw = Canvas(720, 250)
    draw.box(10, 20, 110, 54, "a_1 … a_N", "cells")
    draw.box(10, 110, 110, 54, "h_{t−1}", "state before")
    draw.box(180, 64, 120, 56, "attention", "scores, softmax")
    draw.box(356, 64, 110, 56, "z_t = Σ α_{ti} a_i", "context", weight=0.4)
    draw.box(520, 64, 70, 56, "× β_t", "gate")
    draw.box(356, 170, 110, 56, "LSTM", "h_t, c_t")
    draw.box(10, 190, 110, 46, "E y_{t−1}", "last word")
    draw.box(606, 170, 104, 56, "p(y_t)", "deep output")
    draw.arrow((120, 47), (150, 47), (150, 84), (180, 84))
    draw.arrow((120, 137), (150, 137), (150, 104), (180, 104))
    draw.arrow((300, 92), (356, 92))
    draw.text(328, 84, "α_t", small=True)
    draw.arrow((466, 92), (520, 92))
    draw.arrow((555, 120), (555, 146), (440, 146), (440, 170))
    draw.arrow((120, 150), (300, 150), (300, 190), (356, 190))
    draw.arrow((120, 213), (356, 213))
    draw.arrow((466, 198), (606, 198))
    draw.arrow((590, 92), (658, 92), (658, 170))
    return draw.svg()


def top_down_step() -> str:
    """One word of top-down attention."""
    draw = Canvas(720, 260)
    draw.box(10, 186, 150, 56, "attention LSTM", "h¹_t")
    draw.box(10, 20, 150, 60, "h²_{t−1}, v̄, E y_{t−1}", "its input")
    draw.box(236, 186, 130, 56, "attention", "scores, softmax")
    draw.box(236, 20, 130, 60, "v_1 … v_N", "regions")
    draw.box(440, 186, 110, 56, "v̂_t", "context", weight=0.4)
    draw.box(430, 20, 150, 60, "language LSTM", "h²_t")
    draw.box(620, 20, 90, 60, "p(y_t)", "softmax")
    draw.arrow((85, 80), (85, 186))
    draw.arrow((160, 224), (236, 224))
    draw.arrow((301, 80), (301, 186))
    draw.arrow((366, 214), (440, 214))
    draw.text(403, 206, "α_t", small=True)
    draw.arrow((505, 186), (505, 80))
    draw.arrow((160, 204), (200, 204), (200, 130), (470, 130), (470, 80))
    draw.arrow((580, 50), (620, 50))
    return draw.svg()


def transformer() -> str:
    """The Transformer's blocks, over cells and over words."""
    draw = Canvas(720, 300)
    for x, title, source, rows in (
        (20, "refiner", "cells a_1 … a_N", ("self-attention", "feed-forward")),
        (
            370,
            "decoder",
            "words y_1 … y_{t−1}",
            ("attention to the words", "attention to the cells", "feed-forward"),
        ),
    ):
        top = 234 - 58 * len(rows)
        draw.box(x, top, 250, 244 - top)
        draw.text(x + 262, top + 18, title, bold=True, at="start")
        draw.text(x + 262, top + 38, "blocks", small=True, at="start")
        for number, row in enumerate(rows):
            y = 248 - 58 * (number + 1)
            draw.box(x + 15, y, 220, 40, row, weight=0.35 if "cells" in row else 0)
            if number:
                draw.arrow((x + 125, y + 58), (x + 125, y + 40))
        draw.arrow((x + 125, 290), (x + 125, 230))
        draw.text(x + 138, 282, source, small=True, at="start")
    draw.arrow((145, 132), (145, 36), (345, 36), (345, 152), (385, 152))
    draw.text(245, 28, "memory", small=True)
    draw.arrow((495, 74), (495, 20))
    draw.text(508, 34, "p(y_t)", small=True, at="start")
    return draw.svg()


def packages() -> str:
    """The packages, from the command line down to the errors, as ``.importlinter`` has them."""
    height, gap = 30, 10
    draw = Canvas(720, (height + gap) * len(levels()) + 2 * gap)
    for number, names in enumerate(levels()):
        y, free = gap + number * (height + gap), 640 - gap * (len(names) - 1)
        x, letters = 60.0, sum(len(name) + 3 for name in names)
        for name, folder in names.items():
            width = free * (len(name) + 3) / letters
            draw.box(x, y, width, height, name, weight=0.3 if folder else 0, small=free / letters < 8)
            x += width + gap
    draw.arrow((30, gap), (30, (height + gap) * len(levels())))
    draw.text(30, (height + gap) * len(levels()) + gap, "imports", small=True)
    return draw.svg()


def one_image() -> str:
    """The way of one image from its file to a caption."""
    draw = Canvas(720, 262)
    width, left = 136, (6, 196, 386, 576)
    rows = (
        (
            ("file", "or bytes, array"),
            ("image", "upright, sRGB"),
            ("pixels", "as in training"),
            ("encoder", "once an image"),
        ),
        (
            ("caption", "words, weights"),
            ("search", "W hypotheses"),
            ("decoder", "start, step"),
            ("memory", "N vectors"),
        ),
    )
    for y, boxes in zip((16, 122), rows, strict=True):
        for x, (title, note) in zip(left, boxes, strict=True):
            draw.box(x, y, width, 60, title, note, weight=0.3 if title in ("encoder", "decoder") else 0)
    for x in left[:3]:
        draw.arrow((x + width, 46), (x + 190, 46))
    draw.arrow((644, 76), (644, 122))
    draw.arrow((576, 152), (522, 152))
    draw.arrow((386, 144), (332, 144))
    draw.arrow((332, 162), (386, 162))
    draw.arrow((196, 152), (142, 152))
    draw.text(359, 137, "log p", small=True)
    draw.text(359, 178, "words", small=True)
    draw.box(576, 214, width, 36, "refiner", weight=0.3)
    draw.arrow((630, 182), (630, 214))
    draw.arrow((658, 214), (658, 182))
    draw.box(6, 214, width, 36, "figures")
    draw.box(196, 214, width, 36, "evaluation")
    draw.arrow((60, 182), (60, 214))
    draw.arrow((100, 182), (100, 198), (264, 198), (264, 214))
    return draw.svg()


def one_batch() -> str:
    """The way of one batch through a step of training, and what follows an epoch."""
    draw = Canvas(720, 262)
    width, left = 118, (6, 154, 302, 450, 598)
    boxes = (
        ("captions", "train split"),
        ("batch", "pixels, words"),
        ("encoder", "tuned stages"),
        ("memory", "refined"),
        ("decoder", "teacher forcing"),
    )
    for number, (x, (title, note)) in enumerate(zip(left, boxes, strict=True)):
        draw.box(x, 16, width, 60, title, note, weight=0.3 if title in ("encoder", "decoder") else 0)
        if number:
            draw.arrow((x - 30, 46), (x, 46))
    draw.box(154, 108, width, 40, "feature store", small=True)
    draw.arrow((240, 108), (240, 92), (340, 92), (340, 76))
    draw.box(598, 122, width, 60, "objective", "loss")
    draw.box(376, 122, width, 60, "optimiser", "clip, step")
    draw.arrow((657, 76), (657, 122))
    draw.arrow((598, 152), (494, 152))
    draw.text(546, 145, "gradients", small=True)
    for x, title in zip((376, 228, 80), ("search on dev", "scores", "checkpoint"), strict=True):
        draw.box(x, 214, width, 40, title, small=True)
    draw.arrow((435, 182), (435, 214), dashed=True)
    draw.text(445, 203, "after an epoch", small=True, at="start")
    draw.arrow((376, 234), (346, 234))
    draw.arrow((228, 234), (198, 234))
    return draw.svg()


WIDE = (parts, memories, attend_step, top_down_step, transformer, packages, one_image, one_batch)
DIAGRAMS: dict[str, Callable[[], str]] = {
    **{function.__name__: function for function in WIDE},
    **{f"{function.__name__}_phone": function for function in diagrams_phone.PHONE},
    "memories_phone": lambda: memories(columns=2, width=200),
}


def main() -> None:
    """Draw all of them."""
    for name, draw in DIAGRAMS.items():
        (FIGURES / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
