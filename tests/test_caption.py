"""Captions and translations: composed attention against sums over letters."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.caption import Caption
from captioner.figures import figure
from captioner.text.vocabulary import detokenize, spans
from captioner.translation.result import Translation
from captioner.translation.translator import Translator
from tests.translation.test_translator import build

# Each word of "The dog doesn't run." attends to one cell.
TOKENS = ["the", "dog", "does", "n't", "run"]
CAPTION = Caption(detokenize(TOKENS), TOKENS, -3.0, np.eye(5), grid=(1, 5), source="dog.jpg")
SOURCE_PIECES = [" The", " do", "g", " does", "n't", " run", ".", "<eos>"]
PIECES = [" Der", " Hu", "nd", " läuft", " nicht", "."]
# Rows: Der, Hu, nd, läuft, nicht, the full stop.
ATTENTION = np.array(
    [
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.2, 0.0, 0.2, 0.4, 0.2],
        [0.0, 0.0, 0.0, 0.0, 0.6, 0.0, 0.0, 0.4],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.1],
    ]
)
TRANSLATION = Translation(
    "Der Hund läuft nicht.", PIECES, SOURCE_PIECES, -2.0, ATTENTION, source=CAPTION.text, language="de"
)
TRANSLATED = replace(CAPTION, translation=TRANSLATION)


@pytest.mark.parametrize(
    "words", [TOKENS, ["a", "dog", "'s", "ball"], ["ßa", "b"], ["one"], [], ["i", "'m", "t-shirt", "n't", "x"]]
)
def test_spans_are_the_positions_of_the_words(words: list[str]) -> None:
    text = detokenize(words)
    found = [text[start:end] for start, end in spans(words)]
    assert [word.casefold() for word in found] == [word.casefold() for word in words]
    between = "".join(text[end:start] for (_, end), (start, _) in zip(spans(words), spans(words)[1:], strict=False))
    assert between.strip() == ""


def test_captions_and_translations_are_equal_by_their_numbers() -> None:
    german = Translation("Der Hund.", [" Der"], [" The"], -1.0, np.eye(2))
    same = replace(CAPTION, attention=np.eye(5), translation=german)
    assert same == replace(CAPTION, translation=replace(german, attention=np.eye(2))) and [same] == [replace(same)]
    assert german != same and same != "The dog doesn't run."
    for other in ({"attention": np.ones((5, 5))}, {"attention": np.eye(4)}, {"attention": None}, {"text": "A dog."}):
        assert same != replace(same, **other)
    assert same != replace(same, translation=replace(german, attention=np.ones((2, 2))))


def test_words_at_a_point_are_those_of_its_cell_or_regions() -> None:
    """The point is relative to the whole image, and cells and regions to the part that the model sees."""
    weights = np.array([[0.25, 0.75]])
    boxes = np.array([[0.0, 0.0, 0.6, 1.0], [0.4, 0.0, 1.0, 0.5]])
    cells = Caption("Dog.", ["dog"], -1.0, weights, grid=(1, 2), seen=(0.5, 0.0, 1.0, 0.8))
    regions = replace(cells, grid=None, boxes=boxes)
    for point, of_cells, of_regions in (
        ((0.5, 0.0), 0.25, 0.25),
        ((0.7, 0.5), 0.25, 0.25),
        ((0.9, 0.3), 0.75, 0.75),
        ((0.75, 0.3), 0.75, 1.0),
        ((1.0, 0.8), 0.75, 0.0),
        ((0.4, 0.5), 0.0, 0.0),
        ((0.7, 0.9), 0.0, 0.0),
    ):
        assert cells.words_at(point=point) == [("dog", of_cells)], point
        assert regions.words_at(point=point) == [("dog", of_regions)], point
    with pytest.raises(ValueError, match="not to regions or cells"):
        replace(cells, grid=None).words_at((0.7, 0.5))


def test_a_translated_word_has_the_attention_of_its_source_words() -> None:
    caption = TRANSLATED.translated()
    assert (caption.text, caption.tokens) == ("Der Hund läuft nicht.", ["Der", "Hund", "läuft", "nicht"])
    assert caption.translated_from == CAPTION.text and caption.translation is None and caption.log_probability == -2.0
    assert caption.attention is not None
    expected = np.array(
        [
            [1.0, 0.0, 0.0, 0.0, 0.0],
            [0.25, 0.75, 0.0, 0.0, 0.0],  # the mean of its two pieces
            [0.0, 0.0, 0.5, 0.0, 0.5],  # the full stop and the end are left out
            [0.0, 0.0, 0.0, 1.0, 0.0],  # as is the full stop of the translation
        ]
    )
    np.testing.assert_allclose(caption.attention, expected, atol=1e-6)
    assert dict(caption.words_at((0.1, 0.5))) == pytest.approx(
        {"Der": 1, "Hund": 0.25, "läuft": 0, "nicht": 0}, abs=1e-6
    )
    assert caption.to_dict()["translated_from"] == CAPTION.text and caption.grid == (1, 5)


def test_a_piece_that_spans_two_words_is_shared_by_letters() -> None:
    one = Translation("nein", [" nein"], [" doesn't"], 0.0, np.ones((1, 1)))
    caption = Caption("Doesn't.", ["does", "n't"], 0.0, np.eye(2), grid=(1, 2), translation=one).translated()
    assert caption.attention is not None
    np.testing.assert_allclose(caption.attention, np.array([[4 / 7, 3 / 7]]), atol=1e-6)


def test_a_word_aligned_only_to_punctuation_attends_uniformly() -> None:
    one = Translation("ja", [" ja"], [" A", " b", ".", "<eos>"], 0.0, np.array([[0.0, 0.0, 0.5, 0.5]]))
    caption = Caption("A b.", ["a", "b"], 0.0, np.eye(2), grid=(1, 2), translation=one).translated()
    assert caption.attention is not None
    np.testing.assert_allclose(caption.attention, np.full((1, 2), 0.5), atol=1e-6)


def test_without_attention_or_translation() -> None:
    silent = replace(CAPTION, translation=replace(TRANSLATION, attention=None)).translated()
    assert silent.tokens == ["Der", "Hund", "läuft", "nicht"] and silent.attention is None
    assert replace(TRANSLATED, attention=None).translated().attention is None
    empty = Translation("", [], [], 0.0, language="de")
    assert replace(CAPTION, translation=empty).translated().tokens == []
    with pytest.raises(ValueError, match=r"Translator\.caption"):
        CAPTION.translated()


@pytest.mark.parametrize("family", ["attention", "transformer"])
def test_translations_attend_to_the_image(family: str) -> None:
    translator = Translator(build(family), device="cpu", n_best=2)
    other = replace(CAPTION, text="Two dogs.", tokens=["two", "dogs"], attention=np.eye(5)[:2])
    caption = translator.caption(replace(CAPTION, others=[other])).translated()
    assert len(caption.others) == 1
    for one in (caption, *caption.others):
        assert one.attention is not None and one.attention.shape == (len(one.tokens), 5)
        np.testing.assert_allclose(one.attention.sum(1), 1, rtol=1e-5)
        assert all(any(letter.isalnum() for letter in word) for word in one.tokens)


def test_a_caption_is_short_in_a_console_and_a_page_in_a_notebook(tmp_path: Path) -> None:
    assert repr(CAPTION) == "Caption(\"The dog doesn't run.\", log_probability=-3.00, source='dog.jpg')"
    assert CAPTION._repr_html_() is None, "there is no such file"
    path = tmp_path / 'a "photo".png'
    Image.new("RGB", (40, 30)).save(path)
    shown = replace(CAPTION, source=str(path), others=[replace(CAPTION, attention=None)])
    assert repr(shown).endswith(", 1 others)")
    page = shown._repr_html_()
    assert page is not None
    frames = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: frames.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.feed(page)
    ((tag, attributes),) = frames
    assert tag == "iframe" and (attributes["srcdoc"] or "").encode() == figure(shown).html()
    assert replace(shown, attention=None)._repr_html_() is None
