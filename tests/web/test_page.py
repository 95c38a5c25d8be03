"""The page in a browser, for mouse, touch and keyboard."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.web.app import create_app
from captioner.web.batching import Batches
from captioner.web.guard import Admission
from tests.web.conftest import encoded, explorers


def test_images_are_captioned_in_their_order_and_bad_ones_say_why(
    show: Any, images: list[Path], captioner: Any
) -> None:
    page = show()
    page.set_input_files("#files", images)
    first = explorers(page, 2).first
    assert page.locator("h2").all_inner_texts() == ["=dog.jpg", "cat.png", "notes.txt", "large.png"]
    assert first.locator(".words span").all_text_contents() == captioner(images[0]).tokens
    page.locator(".failed", has_text="notes.txt: not an image of a known kind").wait_for()
    assert "this page takes up to 0 MB" in page.locator(".failed").nth(1).inner_text()
    assert page.locator("#count").inner_text() == "4 images, 2 without a caption"
    assert "JPEG, PNG, WebP, HEIC" in page.locator(".failed").first.inner_text()
    assert page.get_by_text("Try again").count() == 0
    page.get_by_role("button", name="Remove notes.txt").click()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove large.png"
    page.set_input_files("#files", images[1])
    assert page.locator("h2").first.inner_text() == "cat.png"
    explorers(page, 3)
    page.get_by_role("button", name="Remove cat.png").first.click()
    explorers(page, 2)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove =dog.jpg"
    page.get_by_role("button", name="Remove all").click()
    assert page.locator(".result").count() == 0 and not page.locator("#bar").is_visible()


def test_attention_follows_the_pointer(show: Any, images: list[Path]) -> None:
    page = show()
    page.set_input_files("#files", images[:2])
    one, other = (explorers(page, 2).nth(i) for i in (0, 1))
    one.locator(".words button").nth(1).hover()
    assert "on" in one.locator(".stage").get_attribute("class").split()
    assert "looked most" in one.locator(".status").inner_text()
    assert "looked most" not in other.locator(".status").inner_text()
    other.locator(".stage").hover()
    assert other.locator(".status").inner_text().startswith("Strongest here")
    assert one.locator(".status").get_attribute("id") != other.locator(".status").get_attribute("id")


def test_the_attention_of_a_new_caption_plays_once_and_its_strongest_word_stays(
    show: Any, images: list[Path], captioner: Any
) -> None:
    page = show()
    page.clock.install()
    page.set_input_files("#files", images[0])
    explorer = explorers(page, 1).first
    assert explorer.locator(".play").inner_text() == "Stop"
    page.clock.run_for(30_000)
    assert explorer.locator(".play").inner_text() == "Play"
    caption = captioner(images[0])
    assert caption.attention is not None
    shown = explorer.locator(".words button")
    assert [i for i in range(shown.count()) if "shown" in (shown.nth(i).get_attribute("class") or "")] == [
        int(caption.attention.max(1).argmax())
    ]
    page.select_option("#rival", "second")
    assert explorers(page, 1, ".many").locator(".play").inner_text() == "Play first"
    still = show(reduced_motion="reduce")
    still.set_input_files("#files", images[0])
    assert explorers(still, 1).locator(".play").inner_text() == "Play"


def test_captions_are_copied_as_text_and_for_html(show: Any, images: list[Path], captioner: Any) -> None:
    page = show(permissions=["clipboard-read", "clipboard-write"])
    page.set_input_files("#files", images[0])
    explorers(page, 1)
    text = captioner(images[0]).text
    for name, expected in (("Copy caption", text), ("Copy as alt text", f'alt="{text}"')):
        page.get_by_role("button", name=name).click()
        page.locator("#news", has_text="Copied the caption").wait_for(state="attached")
        page.wait_for_function(
            "expected => navigator.clipboard.readText().then(text => text === expected)", arg=expected
        )


def test_the_page_sends_the_token_in_its_address(
    browser: Any, batches: Batches, listening: Callable[..., str], images: list[Path]
) -> None:
    address = listening(create_app(batches, admission=Admission(token="secret")))
    for fragment, shown in (("#token=secret", ".explorer"), ("", ".failed")):
        page = browser.new_page()
        page.goto(address + "/" + fragment)
        page.set_input_files("#files", images[0])
        page.locator(shown).wait_for()
        page.close()


def test_an_example_is_captioned_by_a_click(
    browser: Any, batches: Batches, listening: Callable[..., str], images: list[Path]
) -> None:
    page = browser.new_page()
    page.goto(listening(create_app(batches, examples=images[:2])))
    assert page.locator("#examples button").count() == 2
    page.get_by_role("button", name="cat.png").click()
    explorers(page, 1)
    assert page.locator("h2").inner_text() == "cat.png" and not page.locator("#examples").is_visible()
    assert page.request.get(page.url + "examples/notes.txt").status == 404
    page.close()


def test_the_drop_zone_shrinks_to_a_bar(show: Any, images: list[Path]) -> None:
    page = show(viewport={"width": 390, "height": 700})
    before = page.locator("#drop").bounding_box()["height"]
    page.set_input_files("#files", images[0])
    explorer = explorers(page, 1).first
    assert page.locator("#drop").bounding_box()["height"] < before / 1.5
    assert explorer.locator(".stage").bounding_box()["y"] < 700
    page.get_by_role("button", name="Remove all").click()
    assert page.locator("#drop").bounding_box()["height"] == before


def test_two_models_are_shown_side_by_side_for_one_image(
    show: Any, images: list[Path], captioner: Any, others: Any
) -> None:
    page = show(viewport={"width": 1280, "height": 900})
    page.set_input_files("#files", images[0])
    explorers(page, 1)
    page.select_option("#rival", "second")
    explorer = explorers(page, 1, ".many")
    cards = explorer.get_by_role("group")
    assert cards.nth(0).get_attribute("aria-label").startswith("Caption of first, log-probability")
    for card, model in ((cards.nth(0), captioner), (cards.nth(1), others)):
        assert card.locator(".words span").all_text_contents() == model(images[0]).tokens
    assert cards.nth(0).bounding_box()["y"] == cards.nth(1).bounding_box()["y"]
    explorer.locator(".stage").hover()
    assert explorer.locator(".words .lit").count() == explorer.locator(".words button").count()
    cards.nth(1).locator("button").first.hover()
    assert "of second looked most" in explorer.locator(".status").inner_text()
    page.select_option("#rival", "")
    explorers(page, 1)
    assert page.locator(".explorer.many").count() == 0


def test_saved_captions_are_those_shown(
    show: Any, images: list[Path], tmp_path: Path, captioner: Any, others: Any
) -> None:
    page = show(accept_downloads=True)
    page.set_input_files("#files", images[:2])
    explorers(page, 2)
    page.select_option("#rival", "second")
    explorers(page, 2, ".many")

    def saved(name: str, exact: bool = True) -> bytes:
        # Of two models there are two figures, and the second may come when the next is awaited.
        with page.expect_download(lambda file: file.suggested_filename.endswith(f".{name.lower()}")) as waiting:
            page.get_by_role("button", name=name, exact=exact).first.click()
        waiting.value.save_as(tmp_path / "saved")
        return (tmp_path / "saved").read_bytes()

    expected = [
        ("=dog.jpg", "first", captioner(images[0])),
        ("=dog.jpg", "second", others(images[0])),
        ("cat.png", "first", captioner(images[1])),
        ("cat.png", "second", others(images[1])),
    ]
    order = sorted(json.loads(saved("JSON")), key=lambda row: (row["image"], row["model"]))
    assert [(row["image"], row["model"], row["caption"]) for row in order] == [
        (name, model, caption.text) for name, model, caption in expected
    ]
    rows = sorted(csv.DictReader(saved("CSV").decode().splitlines()), key=lambda row: (row["image"], row["model"]))
    # A spreadsheet would take the name for a formula.
    assert [(row["image"], row["caption"]) for row in rows] == [
        ("'" * name.startswith("=") + name, caption.text) for name, _, caption in expected
    ]
    assert saved("PNG").startswith(b"\x89PNG")
    assert saved("HTML").startswith(b"<!doctype html>")


def test_images_can_be_dropped_and_pasted(show: Any) -> None:
    page = show()
    for number, (kind, target) in enumerate((("drop", "DragEvent"), ("paste", "ClipboardEvent"))):
        page.evaluate(
            """([kind, target, text]) => {
              const files = new DataTransfer();
              files.items.add(new File([Uint8Array.from(atob(text), letter => letter.charCodeAt(0))], `${kind}.jpg`));
              const options = { bubbles: true, cancelable: true, dataTransfer: files, clipboardData: files };
              const over = new DragEvent('dragover', options);
              document.body.dispatchEvent(over);
              if (kind === 'drop' && !over.defaultPrevented) throw new Error('the browser would open the file');
              document.body.dispatchEvent(new window[target](kind, options));
            }""",
            [kind, target, base64.b64encode(encoded(seed=number)).decode()],
        )
        explorers(page, number + 1)
    assert page.locator("h2").all_inner_texts() == ["paste.jpg", "drop.jpg"]


def test_the_camera_takes_an_image_and_goes_dark_again(show: Any) -> None:
    page = show()
    page.get_by_role("button", name="Use the camera").click()
    page.locator("#take:focus").wait_for()
    for _ in range(100):
        if page.evaluate("document.getElementById('video').videoWidth"):
            break
        page.wait_for_timeout(50)
    page.keyboard.press("Enter")
    explorers(page, 1)
    assert page.locator("h2").inner_text() == "camera-1.jpg"
    assert page.evaluate("document.getElementById('video').srcObject") is None
    assert not page.locator("#viewfinder").is_visible()


def test_a_missing_camera_is_reported(show: Any) -> None:
    page = show()
    page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = async () => { throw new Error('Permission denied'); }; }"
    )
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_text("The camera cannot be used (Permission denied)").first.wait_for()


# What has the focus.
FOCUS = (
    """(element => element.getAttribute('aria-label') || element.id || element.textContent)(document.activeElement)"""
)


def test_the_page_works_with_the_keyboard_alone(show: Any, images: list[Path]) -> None:
    page = show()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUS) == "choose"
    page.on("filechooser", lambda chooser: chooser.set_files(images[:1]))
    page.wait_for_timeout(100)  # the browser needs it before the chooser opens
    page.keyboard.press("Enter")
    explorers(page, 1)
    stops = []
    while not stops or stops[-1] != "HTML":
        page.keyboard.press("Tab")
        stops.append(page.evaluate(FOCUS))
        assert len(stops) < 30
    stage = next(stop for stop in stops if stop.startswith("Image. Use the arrow keys"))
    wanted = ["camera", "model", "rival", "csv", "json", "xmp", "txt", "clear", "", "Remove =dog.jpg"]
    assert stops[: len(wanted)] == wanted and stops[len(wanted) + 1 :][:2] == [stage, "Play"]
    assert stops[len(wanted)].startswith(
        page.locator(".words button").first.evaluate("one => one.firstChild.textContent")
    )
    assert stops[-4:] == ["PNG", "PDF", "GIF", "HTML"]
    for _ in range(len(stops) - 1 - stops.index(stage)):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator(".status").inner_text().startswith("Strongest here")
    assert page.locator("#news").inner_text().startswith("=dog.jpg: ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_whole_page(show: Any, images: list[Path], scheme: str) -> None:
    page = show(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True, color_scheme=scheme)
    page.set_input_files("#files", images)
    explorers(page, 2)
    page.select_option("#rival", "second")
    explorers(page, 2, ".many")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.eval_on_selector_all(
        "button", "all => all.filter(one => one.offsetParent && one.getBoundingClientRect().height < 40).length"
    )
    assert small == 0
    page.locator(".words button").nth(1).tap()
    assert page.locator(".words [aria-pressed=true]").count() == 1


def test_a_model_without_attention_is_labelled(show: Any, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from captioner.web import app

    whole = app.numbers
    monkeypatch.setattr(
        app, "numbers", lambda caption, *rest: whole(replace(caption, attention=None, grid=None), *rest)
    )
    page = show()
    page.set_input_files("#files", images[0])
    explorer = explorers(page, 1)
    assert explorer.locator(".text").inner_text().endswith(".")
    assert "no attention over the image" in explorer.locator(".status").inner_text()
    assert page.get_by_role("button", name="PNG").count() == 0


def test_a_busy_server_is_tried_again_and_a_server_error_is_reported(show: Any, images: list[Path]) -> None:
    page = show()
    answers = iter([429, 503])

    def busy(route: Any) -> None:
        status = next(answers, None)
        if status is None:
            route.continue_()
        else:
            route.fulfill(status=status, headers={"retry-after": "0.05"}, json={"detail": "busy"})

    page.route("**/caption?*", busy)
    page.set_input_files("#files", images[0])
    explorers(page, 1)
    page.unroute("**/caption?*")
    page.route("**/caption?*", lambda route: route.fulfill(status=500, body="oops"))
    page.set_input_files("#files", images[1])
    page.get_by_text("The server answered 500.").first.wait_for()
    page.unroute("**/caption?*")
    page.get_by_role("button", name="Try again").click()
    explorers(page, 2)


def test_the_page_describes_itself_and_brings_its_icon(show: Any) -> None:
    page = show()
    assert "where the model looked" in page.locator("meta[name=description]").get_attribute("content")
    shown = "icon => Object.assign(new Image(), { src: icon.href }).decode().then(() => 'shown')"
    assert page.locator("link[rel=icon]").evaluate(shown) == "shown"
