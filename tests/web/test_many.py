"""Many images on the page: a grid with a count, and one of them large, for mouse, keyboard and screen readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.web.conftest import encoded, explorers

COUNTED = "() => document.getElementById('count').textContent.startsWith('{} images')"
FOCUS = "document.activeElement.id || document.activeElement.textContent"


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.jpg" for number in range(7)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(seed=number))
    (tmp_path / "notes.txt").write_bytes(b"hello")
    return [*paths, tmp_path / "notes.txt"]


@pytest.fixture
def page(show: Any, many: list[Path]) -> Any:
    """The page with a grid of seven captions and a file that is not an image."""
    page = show(viewport={"width": 1000, "height": 800}, reduced_motion="reduce")
    page.set_input_files("#files", many)
    page.wait_for_function(COUNTED.format(8))
    return page


def names(page: Any) -> list[str]:
    return page.locator(".tile .small").all_inner_texts()


def test_more_than_a_few_images_are_a_grid_of_captions(page: Any, many: list[Path], captioner: Any) -> None:
    assert names(page) == [path.name for path in many]
    assert page.locator(".tile .line").all_inner_texts()[:7] == [captioner(path).text for path in many[:7]]
    assert "not an image of a known kind" in page.locator(".tile .failed").inner_text()
    assert page.locator("#count").inner_text() == "8 images, 1 without a caption"
    assert page.locator("#news").inner_text() == "8 images, 1 without a caption"
    assert page.locator(".explorer").count() == 0 and not page.locator("#guide").is_visible()
    assert page.locator("ul#grid > li > button").count() == 8
    assert set(page.eval_on_selector_all(".tile img", "all => all.map(one => one.loading + one.decoding)")) == {
        "lazyasync"
    }


def test_the_count_is_live_and_uploads_are_bounded(show: Any, many: list[Path]) -> None:
    page = show()
    held: list[Any] = []
    page.route("**/caption?*", lambda route: held.append(route))
    page.set_input_files("#files", many[:7])
    page.wait_for_function("() => document.getElementById('count').textContent === '0 of 7 images'")
    page.wait_for_timeout(300)
    assert len(held) == 6
    held.pop(0).continue_()
    page.wait_for_function("() => document.getElementById('count').textContent === '1 of 7 images'")
    assert page.eval_on_selector("#progress", "bar => [bar.value, bar.max, bar.hidden]") == [1, 7, False]
    for _ in range(40):
        if len(held) == 6:
            break
        page.wait_for_timeout(50)
    for route in held:
        route.continue_()
    page.wait_for_function("() => document.getElementById('count').textContent === '7 images'")
    assert not page.locator("#progress").is_visible()


def test_one_opens_large_and_keys_move_on_and_back(page: Any, many: list[Path], captioner: Any) -> None:
    page.locator(".tile button").nth(2).click()
    assert explorers(page, 1).locator(".words span").all_text_contents() == captioner(many[2]).tokens
    assert page.evaluate(FOCUS) == "2.jpg" and page.locator("#place").inner_text() == "3 of 8"
    assert page.locator("#news").inner_text() == f"3 of 8, 2.jpg: {captioner(many[2]).text}"
    assert not page.locator("#grid").is_visible() and not page.locator("#drop").is_visible()
    assert page.locator("#hint").count() == page.locator(".strength").count() == page.locator(".ramp").count() == 1
    for key, name in (("ArrowRight", "3.jpg"), ("ArrowLeft", "2.jpg"), ("ArrowLeft", "1.jpg")):
        page.keyboard.press(key)
        assert page.evaluate(FOCUS) == name and explorers(page, 1).count() == 1
    page.get_by_role("button", name="Next").click()
    assert page.evaluate(FOCUS) == "next" and page.locator("h2").inner_text() == "2.jpg"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.parentElement.className") == "tile"
    assert "2.jpg" in page.evaluate(FOCUS) and page.locator(".explorer").count() == 0
    page.keyboard.press("ArrowRight")
    assert "3.jpg" in page.evaluate(FOCUS)
    page.keyboard.press("ArrowDown")
    assert "7.jpg" not in page.evaluate(FOCUS)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert "0.jpg" in page.evaluate(FOCUS)
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")  # round the end
    assert "not an image" in page.locator(".result .failed").inner_text()
    page.get_by_role("button", name="All images").click()
    assert page.locator("#grid").is_visible()


def test_keys_inside_words_the_image_and_texts_stay_there(page: Any) -> None:
    page.locator(".tile button").first.click()
    for place in (".words button >> nth=0", ".stage", "textarea", "#language", ".strength"):
        if page.locator(place).is_visible():
            page.locator(place).focus()
            page.keyboard.press("ArrowRight")
            assert page.locator("h2").inner_text() == "0.jpg"
    page.locator(".words button").first.click()
    page.keyboard.press("Escape")  # frees the held word
    assert page.locator(".words [aria-pressed=true]").count() == 0 and page.locator("h2").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#grid").is_visible()


def test_removing_leads_to_the_next_and_a_few_are_a_list(page: Any) -> None:
    page.locator(".tile button").nth(1).click()
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        page.get_by_role("button", name=f"Remove {name}").click()
        page.wait_for_function("name => document.activeElement.textContent !== name", arg=name)
    assert page.evaluate(FOCUS) == "4.jpg" and page.locator("#place").inner_text() == "2 of 5"
    page.get_by_role("button", name="Remove 4.jpg").click()
    explorers(page, 3)
    assert page.locator("h2").all_inner_texts() == ["0.jpg", "5.jpg", "6.jpg", "notes.txt"]
    assert page.evaluate(FOCUS) == "5.jpg" and not page.locator("#turn").is_visible()
    assert page.locator("#hint").count() == page.locator(".strength").count() == 1
    page.get_by_role("button", name="Remove all").click()
    assert page.evaluate(FOCUS) == "choose"


def test_addresses_of_images_are_given_back(show: Any, many: list[Path]) -> None:
    page = show()
    page.evaluate(
        """() => {
          window.live = new Set();
          const [make, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
          URL.createObjectURL = (blob) => { const url = make.call(URL, blob); window.live.add(url); return url; };
          URL.revokeObjectURL = (url) => { window.live.delete(url); revoke.call(URL, url); };
        }"""
    )
    page.set_input_files("#files", many[:7])
    page.wait_for_function(COUNTED.format(7))
    # Only the small photos of the server are left, not those of the files.
    assert page.evaluate("window.live.size") == 7
    assert page.locator(".tile img").first.evaluate("one => one.decode().then(() => one.naturalWidth)") == 80
    page.get_by_role("button", name="Remove all").click()
    assert page.evaluate("window.live.size") == 0


def test_the_skip_link_leads_past_the_controls(page: Any) -> None:
    page.keyboard.press("Home")
    page.evaluate("document.activeElement.blur()")
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(FOCUS) == "results" and "#" not in page.url
    page.keyboard.press("Tab")
    assert "0.jpg" in page.evaluate(FOCUS)


@pytest.mark.parametrize("width", [320, 390])
def test_a_narrow_screen_shows_the_whole_grid(show: Any, many: list[Path], width: int) -> None:
    page = show(viewport={"width": width, "height": 640}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.set_input_files("#files", many)
    page.wait_for_function(COUNTED.format(8))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator(".tile button").first.tap()
    explorers(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    small = page.eval_on_selector_all(
        "button, select, textarea, input, a",
        """all => all.filter(one => one.offsetParent && one.id !== 'skip').filter(one => {
          const box = one.getBoundingClientRect();
          return box.height < 44 || box.width < 44;
        }).map(one => one.outerHTML)""",
    )
    assert small == []


def test_the_grid_is_printed_without_controls(page: Any) -> None:
    page.emulate_media(media="print")
    assert page.locator(".tile").first.is_visible()
    for control in ("#drop", "#settings", "#bar", "#clear"):
        assert not page.locator(control).is_visible()
