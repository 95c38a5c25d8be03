"""The diagrams of the documentation for phones: the same as in ``diagrams.py``, from top to bottom."""

from __future__ import annotations

import configparser
from functools import cache
from pathlib import Path

from canvas import SMALL, Canvas

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 400
LEFT, RIGHT, COLUMN = 16, 224, 160  # where the boxes of two columns begin, and their width
ACROSS = LEFT + COLUMN, RIGHT  # the ends of an arrow between the columns
MIDDLE_LEFT, MIDDLE_RIGHT = LEFT + COLUMN / 2, RIGHT + COLUMN / 2


@cache
def levels() -> list[dict[str, bool]]:
    """Return the packages on each level, with whether they are folders, as ``.importlinter`` has them."""
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter", encoding="utf-8")
    lines = [line for line in config["importlinter:contract:levels"]["layers"].split("\n") if line.strip()]
    found = [[name.strip().removeprefix("captioner.") for name in line.split("|")] for line in lines]
    folders = {name: (ROOT / "captioner" / name).is_dir() for names in found for name in names}
    return [{name if folders[name] else f"{name}.py": folders[name] for name in names} for names in found]


def parts() -> str:
    """An encoder, a memory, a decoder and a search."""
    draw = Canvas(WIDTH, 470)
    draw.box(100, 6, 200, 54, "image", "or sentence")
    draw.arrow((200, 60), (200, 88))
    draw.box(100, 88, 200, 54, "encoder", "once an image")
    draw.arrow((200, 142), (200, 170))
    for number, weight in enumerate((0.08, 0.75, 0.3, 0.12, 0.05)):
        draw.box(100, 172 + 17 * number, 200, 14, weight=weight)
    draw.text(312, 200, "memory", bold=True, at="start")
    draw.text(312, 220, "N vectors,", small=True, at="start")
    draw.text(312, 237, "with places", small=True, at="start")
    draw.arrow((200, 256), (200, 294))
    draw.box(100, 294, 200, 54, "decoder", "once a word")
    draw.arrow((150, 348), (150, 408))
    draw.text(136, 382, "p", small=True, at="end")
    draw.arrow((250, 408), (250, 348))
    draw.text(262, 382, "the words so far", small=True, at="start")
    draw.box(100, 408, 200, 54, "search", "hypotheses")
    return draw.svg()


def attend_step() -> str:
    """One word of Show, Attend and Tell."""
    draw = Canvas(WIDTH, 526)
    draw.box(24, 10, 150, 54, "h_{t−1}", "state before")
    draw.box(226, 10, 150, 54, "a_1 … a_N", "cells")
    draw.arrow((99, 64), (99, 84), (160, 84), (160, 104))
    draw.arrow((301, 64), (301, 84), (240, 84), (240, 104))
    draw.box(110, 104, 180, 54, "attention", "scores, softmax")
    draw.arrow((200, 158), (200, 194))
    draw.text(212, 180, "α_t", small=True, at="start")
    draw.box(110, 194, 180, 54, "z_t = Σ α_{ti} a_i", "context", weight=0.4)
    draw.arrow((200, 248), (200, 278))
    draw.box(140, 278, 120, 50, "× β_t", "gate")
    draw.arrow((200, 328), (200, 362))
    draw.box(124, 362, 166, 70, "LSTM", "h_t, c_t")
    draw.arrow((24, 37), (8, 37), (8, 379), (124, 379))
    draw.box(8, 398, 92, 46, "E y_{t−1}", "last word")
    draw.arrow((100, 419), (124, 419))
    draw.arrow((200, 432), (200, 463))
    draw.arrow((260, 303), (350, 303), (350, 490), (290, 490))
    draw.box(110, 463, 180, 54, "p(y_t)", "deep output")
    return draw.svg()


def top_down_step() -> str:
    """One word of top-down attention."""
    draw = Canvas(WIDTH, 520)
    draw.box(10, 10, 200, 54, "h²_{t−1}, v̄, E y_{t−1}", "its input")
    draw.box(240, 10, 150, 54, "v_1 … v_N", "regions")
    draw.arrow((110, 64), (110, 98))
    draw.box(10, 98, 200, 54, "attention LSTM", "h¹_t")
    draw.arrow((130, 152), (130, 176), (180, 176), (180, 200))
    draw.arrow((315, 64), (315, 176), (250, 176), (250, 200))
    draw.box(130, 200, 170, 54, "attention", "scores, softmax")
    draw.arrow((215, 254), (215, 290))
    draw.text(227, 276, "α_t", small=True, at="start")
    draw.box(130, 290, 170, 54, "v̂_t", "context", weight=0.4)
    draw.arrow((215, 344), (215, 376))
    draw.arrow((60, 152), (60, 403), (130, 403))
    draw.box(130, 376, 170, 54, "language LSTM", "h²_t")
    draw.arrow((215, 430), (215, 460))
    draw.box(130, 460, 170, 54, "p(y_t)", "softmax")
    return draw.svg()


def transformer() -> str:
    """The Transformer's blocks, over cells and over words."""
    draw = Canvas(WIDTH, 530)
    for bottom, title, rows in (
        (246, "decoder blocks", ("attention to the words", "attention to the cells", "feed-forward")),
        (480, "refiner blocks", ("self-attention", "feed-forward")),
    ):
        top = bottom - 36 - 56 * len(rows)
        draw.box(30, top, 290, bottom - top)
        draw.text(175, top + 22, title, bold=True)
        for number, row in enumerate(rows):
            y = bottom - 12 - 40 - 56 * number
            draw.box(45, y, 260, 40, row, weight=0.35 if "cells" in row else 0)
            if number:
                draw.arrow((175, y + 56), (175, y + 40))
    draw.arrow((175, 42), (175, 8))
    draw.text(188, 26, "p(y_t)", small=True, at="start")
    draw.arrow((110, 286), (110, 234))
    draw.text(110, 304, "words y_1 … y_{t−1}", small=True)
    draw.arrow((240, 332), (240, 286), (360, 286), (360, 158), (305, 158))
    draw.text(300, 304, "memory", small=True)
    draw.arrow((175, 508), (175, 468))
    draw.text(175, 524, "cells a_1 … a_N", small=True)
    return draw.svg()


def packages() -> str:
    """The packages, from the command line down to the errors."""
    height, gap = 30, 8
    placed: list[tuple[float, float, float, str, bool]] = []
    y = gap
    lines: list[float] = []
    for names in levels():
        x = 40.0
        for name, folder in names.items():
            width = len(name) * 9.4 + 20
            if x + width > WIDTH:
                x, y = 40.0, y + height + 4
            placed.append((x, y, width, name, folder))
            x += width + gap
        y += height + gap
        lines.append(y)
        y += gap
    draw = Canvas(WIDTH, y + 2 * gap)
    for x, top, width, name, folder in placed:
        draw.box(x, top, width, height, name, weight=0.3 if folder else 0)
    for line in lines[:-1]:
        draw.arrow((40, line), (WIDTH, line), dashed=True, head=False)
    draw.arrow((16, gap), (16, y - gap))
    draw.text(0, y + SMALL / 2, "imports", small=True, at="start")
    return draw.svg()


def _boxes(draw: Canvas, *boxes: tuple[float, int, str, str], learned: tuple[str, ...]) -> None:
    """Draw boxes in two columns, each of its column, row, title and note; those that learn are shaded."""
    for x, row, title, note in boxes:
        weight = 0.3 if title in learned else 0
        draw.box(x, 8 + 92 * row, COLUMN, 54 if note else 40, *filter(None, (title, note)), weight=weight)


def one_image() -> str:
    """The way of one image from its file to a caption."""
    draw = Canvas(WIDTH, 520)
    _boxes(
        draw,
        (LEFT, 0, "file", "or bytes, array"),
        (RIGHT, 0, "image", "upright, sRGB"),
        (RIGHT, 1, "pixels", "as in training"),
        (LEFT, 1, "encoder", "once an image"),
        (LEFT, 2, "memory", "N vectors"),
        (RIGHT, 2, "refiner", ""),
        (LEFT, 3, "decoder", "start, step"),
        (RIGHT, 3, "search", "W hypotheses"),
        (RIGHT, 4, "caption", "words, weights"),
        (LEFT, 4, "figures", ""),
        (RIGHT, 5, "evaluation", ""),
        learned=("encoder", "decoder", "refiner"),
    )
    draw.arrow((ACROSS[0], 35), (ACROSS[1], 35))
    draw.arrow((MIDDLE_RIGHT, 62), (MIDDLE_RIGHT, 100))
    draw.arrow((ACROSS[1], 127), (ACROSS[0], 127))
    draw.arrow((MIDDLE_LEFT, 154), (MIDDLE_LEFT, 192))
    draw.arrow((ACROSS[0], 204), (ACROSS[1], 204))
    draw.arrow((ACROSS[1], 222), (ACROSS[0], 222))
    draw.arrow((MIDDLE_LEFT, 246), (MIDDLE_LEFT, 284))
    draw.arrow((ACROSS[0], 302), (ACROSS[1], 302))
    draw.text(WIDTH / 2, 295, "log p", small=True)
    draw.arrow((ACROSS[1], 320), (ACROSS[0], 320))
    draw.text(WIDTH / 2, 336, "words", small=True)
    draw.arrow((MIDDLE_RIGHT, 338), (MIDDLE_RIGHT, 376))
    draw.arrow((ACROSS[1], 396), (ACROSS[0], 396))
    draw.arrow((MIDDLE_RIGHT, 430), (MIDDLE_RIGHT, 468))
    return draw.svg()


def one_batch() -> str:
    """The way of one batch through a step of training, and what follows an epoch."""
    draw = Canvas(WIDTH, 518)
    _boxes(
        draw,
        (LEFT, 0, "captions", "train split"),
        (RIGHT, 0, "batch", "pixels, words"),
        (RIGHT, 1, "encoder", "tuned stages"),
        (LEFT, 1, "feature store", "frozen stages"),
        (RIGHT, 2, "memory", "refined"),
        (LEFT, 2, "decoder", "teacher forcing"),
        (LEFT, 3, "objective", "loss"),
        (RIGHT, 3, "optimiser", "clip, step"),
        (RIGHT, 4, "search on dev", ""),
        (LEFT, 4, "scores", ""),
        (LEFT, 5, "checkpoint", ""),
        learned=("encoder", "decoder"),
    )
    draw.arrow((ACROSS[0], 35), (ACROSS[1], 35))
    draw.arrow((MIDDLE_RIGHT, 62), (MIDDLE_RIGHT, 100))
    draw.arrow((ACROSS[0], 127), (ACROSS[1], 127))
    draw.arrow((MIDDLE_RIGHT, 154), (MIDDLE_RIGHT, 192))
    draw.arrow((ACROSS[1], 219), (ACROSS[0], 219))
    draw.arrow((MIDDLE_LEFT, 246), (MIDDLE_LEFT, 284))
    draw.arrow((ACROSS[0], 311), (ACROSS[1], 311))
    draw.text(WIDTH / 2, 302, "∇L", small=True)
    draw.arrow((MIDDLE_RIGHT, 338), (MIDDLE_RIGHT, 376), dashed=True)
    draw.text(MIDDLE_RIGHT - 10, 361, "after an epoch", small=True, at="end")
    draw.arrow((ACROSS[1], 396), (ACROSS[0], 396))
    draw.arrow((MIDDLE_LEFT, 416), (MIDDLE_LEFT, 468))
    return draw.svg()


PHONE = (parts, attend_step, top_down_step, transformer, packages, one_image, one_batch)
