"""The page: what stands in its file, and what it does in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.caption import Caption
from captioner.figures import Figure, Style
from captioner.figures.heat import Heat
from tests.figures.builders import grid_caption, photo, region_caption

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{data}}"


class Reader(HTMLParser):
    """The elements of a page with their attributes, and the text in its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": [], "h1": []}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in self.texts:
            self.texts[self._inside].append(data)

    @property
    def numbers(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.texts["script"][0])
        return value


def read(caption: Caption, picture: Image.Image | None = None, **style: Any) -> Reader:
    return Reader(Figure(caption, picture or photo(), Style(**style)).html().decode())


def test_the_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    page = read(grid_caption())
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policy = next(attributes["content"] or "" for tag, attributes in page.elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for kind, text in (("script", page.texts["script"][1]), ("style", page.texts["style"][0])):
        assert f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b|https?://", page.texts["script"][1])


def test_names_and_words_cannot_become_markup() -> None:
    caption = replace(grid_caption(text=EVIL), text=EVIL, source=f"photos/{EVIL.replace('/', '_')}\udce9.jpg")
    page, plain = read(caption), read(grid_caption())
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert "".join(page.texts["h1"]) == EVIL
    assert page.numbers["tokens"] == EVIL.split()
    assert page.texts["script"][1] == plain.texts["script"][1]
    assert next(attributes["alt"] for tag, attributes in page.elements if tag == "img") == EVIL


def test_the_numbers_are_the_captions() -> None:
    for caption in (grid_caption(words=25, grid=(14, 14)), region_caption(seen=(0.5, 0.0, 1.0, 1.0))):
        value = read(caption).numbers
        assert caption.attention is not None
        levels = np.frombuffer(base64.b64decode(value["weights"]), dtype="<u2").reshape(len(caption.tokens), -1)
        weights = levels / 65535 * np.array(value["peaks"])[:, None]
        np.testing.assert_allclose(weights, caption.attention.numpy(), atol=1e-4 * caption.attention.max().item())
        assert len(base64.b64decode(value["colours"])) == 4 * 256
    assert value["boxes"][0] == [0.5, 0.0, 0.75, 0.5]  # relative to the whole photo


def test_the_photo_has_a_sane_size() -> None:
    for size, wanted in (((3000, 2000), (960, 640)), ((50, 40), (50, 40))):
        page = read(grid_caption(), photo(*size))
        source = next(attributes["src"] or "" for tag, attributes in page.elements if tag == "img")
        image = Image.open(BytesIO(base64.b64decode(source.partition(",")[2])))
        assert image.format == "JPEG" and image.size == wanted and page.numbers["size"] == list(wanted)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with playwright.sync_playwright() as started:
        try:
            chromium = started.chromium.launch()
        except playwright.Error as error:
            pytest.skip(f"chromium does not start ({str(error).splitlines()[0]}); playwright install chromium")
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open the page of a caption; a message on the console or a request for anything else fails the test."""
    wrong: list[str] = []
    contexts = []

    def call(caption: Caption, **settings: Any) -> Any:
        file = Figure(caption, photo(240, 180), Style()).save(tmp_path / "page.html")
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))
        page.goto(file.as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert not wrong


@pytest.mark.parametrize("make", [grid_caption, region_caption])
def test_browser_draws_what_the_program_draws(show: Any, make: Any) -> None:
    caption = make(seen=(0.125, 0.0, 0.875, 1.0))
    page, style = show(caption), Style()
    heat = Heat(caption, style)
    xs, ys = [0.1, 0.21, 0.43, 0.66, 0.84], [0.03, 0.31, 0.77]
    at = np.ix_([int(y * 1000) for y in ys], [int(x * 1000) for x in xs])
    for word in range(len(caption.tokens)):
        got = page.evaluate("([word, xs, ys]) => Array.from(heat(word, xs, ys))", [word, [x + 0.0005 for x in xs], [y + 0.0005 for y in ys]])
        np.testing.assert_allclose(np.reshape(got, (3, 5)), heat.maps((1000, 1000))(word)[at], atol=1e-4)
        told = page.evaluate("word => weightAt(word, 0.3, 0.7)", word)
        assert told == pytest.approx(caption.words_at((0.3, 0.7))[word][1], abs=1e-4)


def test_browser_pointer(show: Any) -> None:
    page = show(grid_caption())
    stage = page.locator("#stage")
    page.locator("#words button").nth(2).hover()
    assert "on" in (stage.get_attribute("class") or "") and "word2" in page.locator("#status").inner_text()
    drawn = "map.getContext('2d').getImageData(0, 0, map.width, map.height).data.reduce((most, value, i) => i % 4 === 3 ? Math.max(most, value) : most, 0)"
    assert page.evaluate(drawn) > 100  # how far the strongest colour covers the photo
    stage.hover(position={"x": 20, "y": 20})
    assert "on" not in (stage.get_attribute("class") or "")
    heats = page.eval_on_selector_all("#words button", "all => all.map(button => +button.style.getPropertyValue('--heat'))")
    assert len(heats) == 4 and 0 < max(heats) <= 1 and all("%" in text for text in page.locator("#words small").all_inner_texts())
    page.mouse.move(1, 1)
    assert page.locator("#words small").all_inner_texts() == [""] * 4


def test_browser_keyboard(show: Any) -> None:
    page = show(grid_caption())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").startswith("word0")
    for key, word in (("ArrowRight", 1), ("End", 3), ("ArrowRight", 0), ("ArrowLeft", 3), ("Home", 0)):
        page.keyboard.press(key)
        assert f"word{word}" in page.locator("#status").inner_text()
    page.keyboard.press("Enter")
    assert page.locator("#words button").first.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "stage"
    page.keyboard.press("ArrowRight")
    first = page.locator("#status").inner_text()
    page.keyboard.press("ArrowRight")
    assert first.startswith("Here") and page.locator("#status").inner_text() != first
    page.keyboard.press("Escape")
    assert page.locator("#words [aria-pressed=true]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_phone(show: Any, scheme: str) -> None:
    page = show(grid_caption(words=25), viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#words button").nth(7).tap()
    assert page.locator("#words button").nth(7).get_attribute("aria-pressed") == "true"
    page.locator("#stage").tap()
    assert page.locator("#status").inner_text().startswith("Here")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_browser_markup_in_words_stays_text(show: Any) -> None:
    page = show(replace(grid_caption(text=EVIL), text=EVIL))
    assert [text.strip() for text in page.locator("#words button").all_text_contents()] == EVIL.split()
