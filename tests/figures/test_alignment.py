"""Alignments: the matrix, and the page's content and behaviour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.errors import CaptionerError
from captioner.figures.alignment import _CELL, END, Alignment, page
from captioner.translation.result import Translation
from tests.browser import launched
from tests.figures.builders import softmax
from tests.figures.test_explorer import EVIL, Reader

WEIGHTS = np.array([[0.9, 0.05, 0.05], [0.1, 0.2, 0.7]])
TRANSLATION = Translation(
    "Hunde laufen", ["Hunde", " laufen"], [" dogs", " run", "<eos>"], -1.0, WEIGHTS, language="de"
)
EMPTY = Translation("", [], [], 0.0, source=" ")


def colours_of_cells(image: Image.Image) -> np.ndarray[Any, Any]:
    """Return the brightness (2, 3) of the matrix's cells, from its upper left corner, where its frame begins."""
    pixels = np.asarray(image.convert("L"), dtype=int)
    dark = pixels < 170
    top = int(np.flatnonzero(dark.sum(1) > 3 * _CELL - 5)[0])
    left = int(np.flatnonzero(dark.sum(0) > 2 * _CELL - 5)[0])
    return np.array(
        [[pixels[top + _CELL * row + 25, left + _CELL * column + 25] for column in range(3)] for row in range(2)]
    )


def test_darker_cells_have_more_weight() -> None:
    found = colours_of_cells(Alignment(TRANSLATION).image())
    order = np.argsort(-WEIGHTS.flatten(), kind="stable")
    assert (np.diff(found.flatten()[order]) >= 0).all() and found[0, 0] < 90 < 200 < found[0, 1]


def test_long_words_and_texts_fit() -> None:
    written, read = ["x" * 90, *(f" w{i}" for i in range(40))], [*(f" r{i}" for i in range(60)), "<eos>"]
    weights = softmax(np.random.default_rng(0).standard_normal((41, 61)))
    image = Alignment(Translation("long", written, read, 0.0, weights)).image()
    assert image.width < 61 * _CELL + 600 and image.height < 41 * _CELL + 400
    edges = np.asarray(image.convert("L"))
    assert min(edges[0].min(), edges[-1].min(), edges[:, 0].min(), edges[:, -1].min()) == 255


@pytest.mark.parametrize("kind", Alignment.formats)
def test_every_format_is_written(kind: str, tmp_path: Path) -> None:
    file = TRANSLATION.save_figure(tmp_path / f"a.{kind}")
    assert file.stat().st_size > 200
    if kind == "json":
        assert json.loads(file.read_text()) == json.loads(json.dumps(TRANSLATION.to_dict(attention=True)))
    if kind == "png":
        assert Image.open(file).text["Title"] == "Hunde laufen"  # type: ignore[attr-defined]
    with pytest.raises(CaptionerError, match=r"unknown format 'gif'; take png, svg, pdf, html, json"):
        TRANSLATION.save_figure(tmp_path / "a.gif")


def test_the_page_has_words_and_weights_and_nothing_dangerous() -> None:
    evil = Translation(EVIL, [EVIL], [EVIL, "<eos>"], 0.0, np.array([[0.5, 0.5]]), source=EVIL)
    reader = Reader(page([EMPTY, TRANSLATION, evil]))
    numbers: Any = reader.numbers
    assert [entry["written"] for entry in numbers] == [["Hunde", "laufen"], [EVIL]]
    assert numbers[0]["read"] == ["dogs", "run", END] and np.allclose(numbers[0]["weights"], WEIGHTS)
    assert [tag for tag, _ in reader.elements].count("script") == 2 and "img" not in dict(reader.elements)
    assert reader.texts["title"] == ["2 translations"] and Reader(page([TRANSLATION])).texts["title"] == [
        "Hunde laufen"
    ]


@pytest.mark.parametrize(
    "translation, why",
    [
        (EMPTY, "is empty"),
        (Translation("da", ["da"], [" x", "<eos>"], 0.0), "its model does not attend"),
    ],
)
def test_without_alignment_there_is_a_clear_error(translation: Translation, why: str) -> None:
    with pytest.raises(CaptionerError, match=why):
        Alignment(translation)
    with pytest.raises(CaptionerError):
        page([translation])


def test_in_a_browser_a_word_lights_up_the_words_it_looked_at() -> None:
    with launched() as browser:
        view = browser.new_page()
        problems: list[str] = []
        view.on("console", lambda message: problems.append(message.text))
        view.on("pageerror", lambda error: problems.append(str(error)))
        view.set_content(page([TRANSLATION]))
        read, written = view.locator(".words").nth(0), view.locator(".words").nth(1)
        written.locator("button").nth(0).hover()
        assert [text.strip() for text in read.locator("small").all_inner_texts()] == ["90 %", "5.0 %", "5.0 %"]
        read.locator("button").nth(2).hover()
        assert [text.strip() for text in written.locator("small").all_inner_texts()] == ["5.0 %", "70 %"]
        written.locator("button").nth(0).focus()
        view.keyboard.press("ArrowRight")
        assert [text.strip() for text in read.locator("small").all_inner_texts()] == ["10 %", "20 %", "70 %"]
        assert view.locator("td").count() == 6 and problems == []
