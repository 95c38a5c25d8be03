from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from captioner.benchmark.cost import ModelCost
from captioner.benchmark.html_page import ShownImage, html_page
from captioner.benchmark.plot import appearance, plot
from captioner.benchmark.quality import Quality

VOID = {"meta", "img"}


class Checker(HTMLParser):
    """Parser of a page that fails on elements that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


@pytest.fixture
def shown(tmp_path: Path) -> list[ShownImage]:
    Image.new("RGB", (30, 20), (200, 0, 0)).save(tmp_path / "red.png")
    captions = {"a": 'a <b>dog</b> & "cat"', "b": "a boat", "c": ""}
    first = ShownImage(
        "<0>", tmp_path / "red.png", ('a "dog" & a cat',), captions, {"a": 2.5, "b": 0.1, "c": 0.0}, {"a": b"jpeg"}
    )
    return [first, ShownImage("1", tmp_path / "gone.png", ("two men",), captions, {"a": 0.0, "b": 1.0, "c": 1.0})]


def test_the_page_is_complete_and_accessible(
    quality: Quality, costs: dict[str, ModelCost], shown: list[ShownImage], tmp_path: Path
) -> None:
    plot(tmp_path / "plot.png", quality, costs)
    parsed = Checker(
        html_page("a <b> & c", quality, costs, shown, resamples=200, plot=(tmp_path / "plot.png").read_bytes())
    )
    assert parsed.all("html") == [{"lang": "en"}] and len(parsed.all("main")) == len(parsed.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in parsed.seen if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    assert len(parsed.all("img")) == 3 and all(
        image["alt"] and str(image["src"]).startswith("data:image/") for image in parsed.all("img")
    )
    ids = [attributes["id"] for _, attributes in parsed.seen if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert all(
        attributes[name] in ids for _, attributes in parsed.seen for name in ("aria-labelledby",) if name in attributes
    )
    assert not parsed.all("script") and not parsed.all("link")
    assert 'a <b>dog</b> & "cat"' in parsed.words and "(empty)" in parsed.words and "gone.png" in parsed.words
    assert parsed.words.count("best here") == 3  # "a" on the first image, "b" and "c" on the second


def test_the_summary_names_the_best_and_how_often_it_wins(quality: Quality) -> None:
    parsed = Checker(html_page("toys", quality, {}, [], resamples=200))
    first = next(iter(quality.groups[0].scores["a"].values()))
    assert f"{100 * first.value:.1f}" in parsed.words and "best on" in parsed.words and "100 %" in parsed.words
    assert "no images on which the models' scores differ" in parsed.words


def test_the_best_on_most_images_is_compared_as_printed(quality: Quality) -> None:
    close = {"a": [1.0] * 101 + [0.0] * 100, "b": [0.0] * 101 + [1.0] * 100, "c": [0.0] * 201}
    each = {name: {quality.metric: scores} for name, scores in close.items()}
    text = html_page("toys", replace(quality, each=each), {}, [], resamples=200)
    assert text.count('<td class="best">50 %') == 2


def test_the_plot_names_every_model_as_it_is(
    quality: Quality, costs: dict[str, ModelCost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr("matplotlib.text.Text.set_text", lambda self, text: written.append(text))
    names = {"a": "_", "b": "_b", "c": "$x$"}
    whole = replace(quality.groups[0], scores={names[name]: each for name, each in quality.groups[0].scores.items()})
    plot(
        tmp_path / "plot.png",
        replace(quality, groups=[whole]),
        {names[name]: cost for name, cost in costs.items()},
    )
    assert set(names.values()) <= set(written)


def test_every_model_looks_different_in_the_plot(quality: Quality) -> None:
    whole = quality.groups[0]
    many = replace(quality, groups=[replace(whole, scores={f"model {n}": whole.scores["a"] for n in range(20)})])
    assert len({(colour, mark) for _, colour, mark in appearance(many).values()}) == 20


def test_captions_from_a_file_have_scores_but_no_cost_and_no_attention(
    quality: Quality, costs: dict[str, ModelCost], shown: list[ShownImage], tmp_path: Path
) -> None:
    part = replace(quality, given=["a"], left_out=2, unreadable=["a.json: 2 of 8 have no caption <b>"])
    models = {name: cost for name, cost in costs.items() if name != "a"}
    plot(tmp_path / "plot.png", part, models)
    shown[0].attention.clear()
    text = html_page("toys", part, models, shown, resamples=200, plot=b"png", notes=["a & b"])
    parsed = Checker(text)
    assert parsed.words.count("Attention: – (this caption comes from a file)") == 2
    assert parsed.words.count("This model has no attention to show.") == 4
    assert parsed.words.count("–: not known, because the captions come from a file") == 2
    assert "2 images were left out: a.json: 2 of 8 have no caption <b>" in parsed.words and "a & b" in parsed.words
    # A dash in each column but the first of both tables.
    columns = [len(table.split('<th scope="col">')) - 2 for table in text.split("<table>")[2:4]]
    assert text.count("<td>–</td>") == sum(columns) > 10
    assert "relative speed" in parsed.words and "multiple of b's" in parsed.words
