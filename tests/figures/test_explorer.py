"""The page: the content of its file, and its behaviour in a browser."""

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
from captioner.figures.explorer import HINT, TOUCH_HINT
from captioner.figures.explorer import page as make_page
from captioner.figures.heat import Heat
from captioner.figures.style import Style
from tests.browser import launched
from tests.figures.builders import grid_caption, make_image, region_caption

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{data}}"


class Reader(HTMLParser):
    """Parser of a page's elements with their attributes, and of its scripts, styles, title and heading."""

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


def read(caption: Caption, image: Image.Image | None = None, **style: Any) -> Reader:
    return Reader(make_page(caption, image or make_image(), Style(**style)))


def several() -> Caption:
    """A caption of four words with two others.

    The first other has three words, which all look at the upper left cell; the second has no attention.
    """
    corner = np.zeros((3, 12))
    corner[:, 0] = 1
    second = Caption("A second one.", ["a", "second", "one"], -8.25, corner, grid=(3, 4))
    third = Caption("A third one.", ["a", "third", "one"], -9.5, grid=(3, 4))
    return replace(grid_caption(), others=[second, third])


def test_the_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    page = read(grid_caption())
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policy = next(
        attributes["content"] or ""
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for kind, text in (("script", page.texts["script"][1]), ("style", page.texts["style"][0])):
        assert f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b|https?://", page.texts["script"][1])


def test_names_and_words_cannot_become_markup() -> None:
    caption = replace(grid_caption(text=EVIL), text=EVIL, source=f"photos/{EVIL.replace('/', '_')}\udce9.jpg")
    page, plain = read(caption), read(grid_caption())
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert "".join(page.texts["h1"]) == EVIL
    assert page.numbers["captions"][0]["tokens"] == EVIL.split()
    assert page.texts["script"][1] == plain.texts["script"][1]
    assert next(attributes["alt"] for tag, attributes in page.elements if tag == "img") == EVIL


def weights_in(value: dict[str, Any]) -> Any:
    """Decode the weights (T, N) of one caption in the page's numbers."""
    levels = np.frombuffer(base64.b64decode(value["weights"]), dtype="<u2").reshape(len(value["tokens"]), -1)
    return levels / 65535 * np.array(value["peaks"])[:, None]


def test_the_numbers_are_the_captions() -> None:
    for caption in (grid_caption(words=25, grid=(14, 14)), region_caption(seen=(0.5, 0.0, 1.0, 1.0))):
        value = read(caption).numbers
        assert caption.attention is not None
        (best,) = value["captions"]
        assert best["text"] == caption.text and best["log_probability"] == caption.log_probability
        np.testing.assert_allclose(weights_in(best), caption.attention, atol=1e-4 * caption.attention.max().item())
        assert len(base64.b64decode(value["colours"])) == 4 * 256
    assert value["views"][0]["boxes"][0] == [0.5, 0.0, 0.75, 0.5]  # relative to the whole image


def test_the_numbers_hold_the_other_captions() -> None:
    first, second, third = read(several()).numbers["captions"]
    assert [one["log_probability"] for one in (first, second, third)] == [-7.5, -8.25, -9.5]
    assert second["tokens"] == ["a", "second", "one"] and weights_in(second)[:, 0].tolist() == [1.0] * 3
    assert third["text"] == "A third one." and third["weights"] is None
    assert (first["view"], second["view"], third["view"]) == (0, 0, None)  # those on the same places share them
    elsewhere = replace(several().others[0], attention=np.full((3, 4), 0.25), grid=(2, 2))
    numbers = read(
        replace(grid_caption(), others=[elsewhere, replace(elsewhere, log_probability=float("-inf"))])
    ).numbers
    assert [one["view"] for one in numbers["captions"]] == [0, 1, 1]
    assert [view["places"] for view in numbers["views"]] == [12, 4] and weights_in(numbers["captions"][1]).shape == (
        3,
        4,
    )
    assert numbers["captions"][2]["log_probability"] is None  # JSON has no infinity


def test_the_image_has_a_sane_size() -> None:
    for size, expected in (((3000, 2000), (960, 640)), ((50, 40), (50, 40))):
        page = read(grid_caption(), make_image(*size))
        source = next(attributes["src"] or "" for tag, attributes in page.elements if tag == "img")
        shown = Image.open(BytesIO(base64.b64decode(source.partition(",")[2])))
        assert shown.format == "JPEG" and shown.size == expected and page.numbers["size"] == list(expected)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as started:
        yield started


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open the page of a caption; a console message or a request for anything else fails the test."""
    problems: list[str] = []
    contexts = []

    def call(caption: Caption, image: Image.Image | None = None, **settings: Any) -> Any:
        file = tmp_path / "page.html"
        file.write_text(make_page(caption, image or make_image(240, 180), Style()), encoding="utf-8")
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url),
        )
        page.goto(file.as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert not problems


@pytest.mark.parametrize("make", [grid_caption, region_caption])
def test_browser_draws_what_the_program_draws(show: Any, make: Any) -> None:
    caption = make(seen=(0.125, 0.0, 0.875, 1.0))
    page, style = show(caption), Style()
    heat = Heat(caption, style)
    xs, ys = [0.1, 0.21, 0.43, 0.66, 0.84], [0.03, 0.31, 0.77]
    at = np.ix_([int(y * 1000) for y in ys], [int(x * 1000) for x in xs])
    for word in range(len(caption.tokens)):
        got = page.evaluate(
            "([word, xs, ys]) => Array.from(explorer.heat(word, xs, ys))",
            [word, [x + 0.0005 for x in xs], [y + 0.0005 for y in ys]],
        )
        np.testing.assert_allclose(np.reshape(got, (3, 5)), heat.maps((1000, 1000))(word)[at], atol=1e-4)
        weight = page.evaluate("word => explorer.weightAt(word, 0.3, 0.7)", word)
        assert weight == pytest.approx(caption.words_at((0.3, 0.7))[word][1], abs=1e-4)


def opacities(page: Any, *points: tuple[float, float]) -> list[int]:
    """Return the map's opacity, 0..255, at its most opaque pixel and then at points (x, y), 0..1.

    It is read from a copy, because browsers warn on the console about a canvas that is read often.
    """
    read = """points => {
      const { map } = explorer;
      const copy = new OffscreenCanvas(map.width, map.height).getContext('2d');
      copy.drawImage(map, 0, 0);
      const alpha = copy.getImageData(0, 0, map.width, map.height).data.filter((_, i) => i % 4 === 3);
      const at = ([x, y]) => alpha[Math.floor(y * map.height) * map.width + Math.floor(x * map.width)];
      return [alpha.reduce((most, each) => Math.max(most, each)), ...points.map(at)];
    }"""
    values: list[int] = page.evaluate(read, points)
    return values


def shows_map(page: Any) -> bool:
    return "on" in (page.locator(".stage").get_attribute("class") or "").split()


def lit(page: Any) -> list[float]:
    """Return how strongly each word is lit, 0..1."""
    heats: list[float] = page.eval_on_selector_all(
        ".words button", "all => all.map(button => +button.style.getPropertyValue('--heat'))"
    )
    return heats


def test_browser_pointer(show: Any) -> None:
    caption = grid_caption()
    page = show(caption)
    stage = page.locator(".stage")
    page.locator(".words button").nth(2).hover()
    assert shows_map(page) and "word2" in page.locator(".status").inner_text()
    assert opacities(page)[0] > 100
    assert caption.attention is not None
    row, column = divmod(int(caption.attention[2].argmax()), 4)
    box = stage.bounding_box()
    stage.hover(position={"x": (column + 0.5) / 4 * box["width"], "y": (row + 0.5) / 3 * box["height"]})
    assert not shows_map(page)
    assert len(lit(page)) == 4 and lit(page)[2] == max(lit(page)) > 0.3
    assert all("%" in text for text in page.locator(".words small").all_inner_texts())
    page.mouse.move(1, 1)
    peaks = caption.attention.max(1)
    rest = int(peaks.argmax())  # its map stays
    texts = [f"{100 * peaks[rest]:.0f} %" if word == rest else "" for word in range(4)]
    assert page.locator(".words small").all_inner_texts() == texts and shows_map(page)
    assert page.locator(".status").inner_text() == HINT


# What has the focus: a word, or the kind of another element.
FOCUSED = """(element => element.closest('.words') ? element.firstChild.textContent : element.classList[0])(
  document.activeElement)"""


def test_browser_keyboard(show: Any) -> None:
    page = show(grid_caption())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").startswith("word0")
    for key, word in (("ArrowRight", 1), ("End", 3), ("ArrowRight", 0), ("ArrowLeft", 3), ("Home", 0)):
        page.keyboard.press(key)
        assert f"word{word}" in page.locator(".status").inner_text()
    page.keyboard.press("Enter")
    assert page.locator(".words button").first.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "stage"
    page.keyboard.press("ArrowRight")
    first = page.locator(".status").inner_text()
    page.keyboard.press("ArrowRight")
    assert first.startswith("Strongest here") and page.locator(".status").inner_text() != first
    page.keyboard.press("Escape")
    assert page.locator(".words [aria-pressed=true]").count() == 0


def test_browser_slider_sets_how_far_the_map_covers_the_image(show: Any) -> None:
    caption, style = grid_caption(), Style()
    page, heat = show(caption, reduced_motion="reduce"), Heat(caption, style)
    slider = page.get_by_role("slider", name="Strength")
    toned = "getComputedStyle(document.querySelector('.image')).filter"
    page.locator(".words button").nth(2).click()
    usual = opacities(page)[0]
    assert slider.input_value() == "100" and usual == pytest.approx(
        255 * style.opacity * heat.maps((240, 180)).share(2).max(), abs=1.5
    )
    slider.focus()
    page.keyboard.press("Home")
    assert opacities(page)[0] == 0 and page.evaluate(toned) == "grayscale(0) brightness(1)"
    assert slider.get_attribute("aria-valuetext") == "0 %, the plain image"
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert (
        opacities(page)[0] == pytest.approx(usual / 2, abs=1.5)
        and page.locator(".strength-value").inner_text() == "50 %"
    )
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert opacities(page)[0] == 255 and slider.get_attribute("aria-valuetext") == "200 %"
    assert page.locator(".words [aria-pressed=true]").count() == 1  # the word stays held


def test_browser_reads_as_a_sentence(show: Any) -> None:
    page = show(grid_caption(text="a dog runs"))
    words = page.locator(".words button")
    assert words.all_text_contents()[0].startswith("a") and words.first.inner_text().startswith("A")
    after = "all => all.map(each => getComputedStyle(each, '::after').content)"
    assert page.eval_on_selector_all(".words span", after) == ["none", "none", '"."']


def test_browser_shows_all_captions_and_where_each_looked(show: Any) -> None:
    page = show(several(), viewport={"width": 1280, "height": 800})
    cards = page.get_by_role("group")
    assert [cards.nth(i).get_attribute("aria-label") for i in (0, 1)] == [
        "Caption 1 of 3, log-probability −7.50 nats",
        "Caption 2 of 3, log-probability −8.25 nats",
    ]
    assert "A third one." in cards.nth(2).inner_text() and cards.nth(2).get_by_role("button").count() == 0
    boxes = [cards.nth(i).bounding_box() for i in range(3)]
    assert len({box["y"] for box in boxes}) == 1 and len({box["x"] for box in boxes}) == 3
    cards.nth(1).get_by_role("button").nth(1).hover()
    assert (
        "“second” of caption 2" in page.locator(".status").inner_text()
        and "100 %" in page.locator(".status").inner_text()
    )
    _, near, far = opacities(page, (0.1, 0.1), (0.9, 0.9))
    assert near > 150 and far < 10
    box = page.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
    assert len(lit(page)) == 7 and min(lit(page)[4:]) > 0.8
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.9 * box["height"])
    assert max(lit(page)[:4]) > 0 and max(lit(page)[4:]) < 0.1


def test_browser_keyboard_goes_from_caption_to_caption(show: Any) -> None:
    page = show(several())
    stops = []
    for _ in range(4):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(FOCUSED))
    assert stops == ["stage", "word0", "a", "play"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowLeft")  # from the first word of the second caption to its last
    assert (
        "“one” of caption 2" in page.locator(".status").inner_text()
        and page.locator(".play").inner_text() == "Play caption 2"
    )
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")  # back to where this toolbar was left
    assert page.evaluate("document.activeElement.firstChild.textContent") == "one"
    assert page.locator(".words [aria-pressed=true]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".words [aria-pressed=true]").count() == 0


def test_browser_plays_the_caption_last_used(show: Any) -> None:
    page = show(several())
    page.clock.install()
    play = page.locator(".play")
    assert play.inner_text() == "Play caption 1"
    page.get_by_role("button", name="second").click()
    assert play.inner_text() == "Play caption 2"
    play.click()
    assert play.inner_text() == "Stop" and "“a” of caption 2" in page.locator(".status").inner_text()
    page.clock.run_for(1000 * Style().seconds)
    assert "“second” of caption 2" in page.locator(".status").inner_text()
    play.click()
    assert play.inner_text() == "Play caption 2" and page.locator(".caption").nth(1).locator(".shown").count() == 0


def test_browser_names_the_strongest_region(show: Any) -> None:
    page = show(replace(region_caption(), labels=["head", "floor", "mat"]))
    page.locator(".words button").first.hover()
    assert page.locator(".marks b").all_inner_texts() == ["head\n70 %"]
    assert "looked most at head" in page.locator(".status").inner_text()
    page = show(replace(region_caption(), labels=["", "dog", "cat"]))  # a cell has most of the weight; see Heat.regions
    page.locator(".words button").first.hover()
    assert page.locator(".marks b").all_inner_texts() == ["dog\n20 %"] and page.locator(".marks .region").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("make", [lambda: grid_caption(words=25), several])
def test_browser_phone(show: Any, scheme: str, make: Any) -> None:
    page = show(make(), viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator(".status").inner_text() == TOUCH_HINT
    lefts = page.eval_on_selector_all(".caption", "all => all.map(card => card.getBoundingClientRect().left)")
    assert len(set(lefts)) == 1  # one below the other
    page.locator(".words button").nth(6).tap()
    assert page.locator(".words button").nth(6).get_attribute("aria-pressed") == "true" and shows_map(page)
    page.locator(".stage").tap()
    assert page.locator(".status").inner_text().startswith("Strongest here")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("size", [(800, 100), (100, 400), (16, 16)])
def test_browser_odd_images_fit(show: Any, size: tuple[int, int]) -> None:
    page = show(several(), make_image(*size))
    for width, height in ((360, 640), (1280, 800)):
        page.set_viewport_size({"width": width, "height": height})
        box = page.locator(".stage").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(size[0] / size[1], rel=0.05)
        assert box["height"] < 0.85 * height and max(box["width"], box["height"]) > 200
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1)])
def test_browser_images_of_single_pixels_show_the_map(show: Any, size: tuple[int, int]) -> None:
    page = show(grid_caption(), make_image(*size))
    box = page.locator(".stage").bounding_box()
    assert min(box["width"], box["height"]) >= 8 and box["height"] < 0.85 * page.viewport_size["height"]
    colours = "map => new Set(new Uint32Array(map.getContext('2d').getImageData(0, 0, 420, 420).data.buffer)).size"
    assert page.locator(".map").evaluate(colours) > 5


# The lowest contrast (WCAG 2) of any text on the page with its background, with the words lit by `heat`.
CONTRAST = """heat => {
  document.querySelectorAll('.words button').forEach(button => button.style.setProperty('--heat', heat));
  const parse = colour => colour.match(/[0-9.]+/g).map(Number);
  const ground = element => {
    const [r, g, b, a = 1] = parse(getComputedStyle(element).backgroundColor);
    if (a === 1) return [r, g, b];
    const below = ground(element.parentElement);
    return [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);
  };
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = rgb => rgb.slice(0, 3).map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const texts = document.querySelectorAll('.words button, .words small, .head *, .text, .status, .play, ' +
    '.control, .control span, .note');
  return Math.min(...[...texts].map(element => {
    const [low, high] = [light(parse(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_text_stays_readable(show: Any, scheme: str) -> None:
    page = show(several(), color_scheme=scheme, reduced_motion="reduce")
    page.locator(".stage").hover()
    assert min(page.evaluate(CONTRAST, heat) for heat in (0, 0.25, 0.5, 0.75, 1)) >= 4.5


def test_browser_prints_captions_and_image_on_white(show: Any) -> None:
    page = show(several(), color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert (
        page.locator(".image").is_visible()
        and page.get_by_text("A third one.").first.is_visible()
        and page.get_by_text("second").first.is_visible()
    )
    assert not page.locator(".play").is_visible() and not page.locator(".strength").is_visible()


def test_browser_markup_in_words_stays_text(show: Any) -> None:
    caption = replace(grid_caption(text=EVIL), text=EVIL)
    page = show(replace(caption, others=[replace(caption, attention=None)]))
    assert [text.strip() for text in page.locator(".words span").all_text_contents()] == EVIL.split()
    assert page.locator(".text").inner_text() == EVIL
