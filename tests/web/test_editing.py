"""Captions on the page that are edited, translated and downloaded."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.data.rows import csv_rows
from captioner.metadata import XmpSidecars, by_language
from captioner.web.app import create_app
from captioner.web.batching import Batches
from tests.web.conftest import encoded, explorers


@pytest.fixture(scope="module")
def translator() -> Any:
    from captioner.translation.translator import Translator
    from tests.translation.test_translator import build

    return Translator(build(), device="cpu")


@pytest.fixture
def address(captioner: Any, listening: Callable[..., str], translator: Any) -> str:
    batches = Batches(["first"], lambda name: captioner)
    return listening(create_app(batches, load_translator=lambda language: translator.caption, languages=["de"]))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(seed=number))
    return paths


@pytest.fixture
def page(show: Any, photos: list[Path]) -> Any:
    page = show(reduced_motion="reduce")
    page.set_input_files("#files", photos)
    explorers(page, 2)
    return page


def saved(page: Any, name: str) -> bytes:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name, exact=True).click()
    return Path(waiting.value.path()).read_bytes()


def test_an_edit_is_marked_saved_and_undone(page: Any, photos: list[Path], captioner: Any) -> None:
    first, second = (captioner(path) for path in photos)
    area = page.get_by_label("Edit the caption").first
    assert area.input_value() == first.text
    assert page.get_by_text("edited", exact=True).locator("visible=true").count() == 0
    area.fill("=My dog,\nand me")
    assert page.get_by_text("edited", exact=True).locator("visible=true").count() == 1
    # The words and their attention stay those of the model.
    assert page.locator(".words").first.locator("span").all_text_contents() == first.tokens
    rows = list(csv.DictReader(io.StringIO(saved(page, "CSV").decode())))
    assert [(row["image"], row["caption"], row["edited"], row["language"], row["model"]) for row in rows] == [
        ("a.jpg", "'=My dog,\nand me", "true", "en", "first"),
        ("b.jpg", second.text, "false", "en", "first"),
    ]
    assert float(rows[0]["log_probability"]) == pytest.approx(first.log_probability, abs=1e-3)
    assert [row["caption"] for row in json.loads(saved(page, "JSON"))] == ["=My dog,\nand me", second.text]
    page.get_by_role("button", name="Restore the caption").click()
    assert area.input_value() == first.text and page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    assert page.get_by_text("edited", exact=True).locator("visible=true").count() == 0


def test_cells_are_guarded_as_those_of_the_commands(page: Any) -> None:
    texts = ["=1+1", "+a", "-a", "@a", "\ta", "'=a", "''@a", "'a", "a=b", 'a "b", c', "a\nb", "-5"]
    for text in texts:
        stream = io.StringIO(newline="")
        csv_rows(stream, ["a"], header=False)({"a": text})
        assert page.evaluate("text => cell(text) + '\\n'", text) == stream.getvalue()


def test_captions_are_shown_and_saved_in_another_language(
    page: Any, photos: list[Path], captioner: Any, translator: Any, tmp_path: Path
) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url.rpartition("/")[2].partition("?")[0]))
    english = [captioner(path).text for path in photos]
    german = [translator(text).text for text in english]
    page.get_by_label("Edit the caption").first.fill("Two dogs play.")
    page.get_by_label("Edit the caption").first.press("Tab")
    page.select_option("#language", "de")
    page.locator(".sentence").nth(1).wait_for()
    area = page.get_by_label("Edit the caption in German")
    page.wait_for_function("text => document.querySelectorAll('textarea')[1].value === text", arg=german[1])
    assert area.first.input_value() == translator("Two dogs play.").text
    assert area.first.get_attribute("lang") == "de" and page.locator(".sentence").nth(1).inner_text() == german[1]
    assert set(requests) == {"translate"}  # nothing is uploaded again
    area.nth(1).fill("Mein Hund.")
    with zipfile.ZipFile(io.BytesIO(saved(page, "XMP"))) as archive:
        assert archive.namelist() == ["a.jpg.xmp", "b.jpg.xmp"]
        archive.extractall(tmp_path)
    # What a person wrote is kept by the next run of the command, and what the model wrote is replaced.
    assert XmpSidecars().write(photos[0], {"en": "A dog."}).kept
    assert XmpSidecars().write(photos[1], {"de": "Ein Hund."}).kept
    with zipfile.ZipFile(io.BytesIO(saved(page, "TXT"))) as archive:
        assert [archive.read(name).decode() for name in archive.namelist()] == [
            f"{by_language(translator('Two dogs play.').text)['x-default']}\n",
            "Mein Hund.\n",
        ]
    assert {row["language"] for row in json.loads(saved(page, "JSON"))} == {"de"}
    page.select_option("#language", "en")
    assert [area.input_value() for area in page.get_by_label("Edit the caption").all()] == [
        "Two dogs play.",
        english[1],
    ]
    assert page.locator(".sentence").locator("visible=true").all_inner_texts() == ["Two dogs play."]


def test_a_failed_translation_is_reported_and_english_stays(page: Any, photos: list[Path], captioner: Any) -> None:
    page.route("**/translate", lambda route: route.fulfill(status=500, json={"detail": "the translator is damaged"}))
    page.select_option("#language", "de")
    page.get_by_role("alert").get_by_text("the translator is damaged").wait_for()
    assert page.locator("#language").input_value() == "en"
    assert page.get_by_label("Edit the caption").first.input_value() == captioner(photos[0]).text
