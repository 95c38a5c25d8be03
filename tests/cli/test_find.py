"""``captioner find``."""

from __future__ import annotations

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from captioner.retrieval import INDEX


@pytest.fixture
def find(run, model: Path):
    return lambda *arguments: run("find", "--model", model, "--device", "cpu", *arguments)


@pytest.fixture
def photos(images: Path) -> Path:
    (images / "broken.jpg").unlink()
    return images


def test_photos_are_printed_and_the_next_search_encodes_none(
    find, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "red.txt").write_text("Anna's ball\n")
    first = find("a dog on grass", photos)
    assert first.code == 0 and first.err == f"{photos / INDEX}: 3 new\n"
    assert len(first.lines) == 3 and f"{photos / 'red.jpg'}: Anna's ball" in first.lines
    monkeypatch.setattr("captioner.engines.model.encode_batches", lambda *a, **b: pytest.fail("it was encoded"))
    again = find("a dog on grass", photos)
    assert (again.out, again.err) == (first.out, "")
    top = find("a dog on grass", photos, "--top", 1, "--json")
    row = json.loads(top.out)
    assert row["image"] == first.lines[0].partition(": ")[0] and row.keys() == {"image", "score", "texts"}


def test_subfolders_are_searched_on_request(find, photos: Path) -> None:
    assert len(find("a dog", photos).lines) == 3
    result = find("a dog", photos, "--recursive")
    assert len(result.lines) == 4 and result.err == f"{photos / INDEX}: 1 new, 3 unchanged\n"
    assert len(find("a dog", photos).lines) == 3, "the index has more photos than are searched"
    shutil.rmtree(photos / "more")
    assert "3 unchanged, 1 gone" in find("a dog", photos, "-r").err


def test_an_unreadable_photo_does_not_stop_the_others(find, images: Path) -> None:
    result = find("a dog", images)
    assert result.code == 1 and len(result.lines) == 3
    assert result.err.startswith(f"error: {images / 'broken.jpg'}: ")


def test_captions_of_an_earlier_run_count(find, run, model: Path, photos: Path, tmp_path: Path) -> None:
    run("caption", "--model", model, photos, "-o", tmp_path / "rows.csv")
    lines = find("zebra", photos, "--captions", tmp_path / "rows.csv").lines
    assert lines == [], "no caption has this word"
    word = next(iter(run("caption", "--model", model, "-q", photos / "red.jpg").out.lower().rstrip(".\n").split()))
    rows = [json.loads(line) for line in find(word, photos, "--captions", tmp_path / "rows.csv", "--json").lines]
    assert all(len(row["texts"]) == 1 for row in rows)
    run("caption", "--model", model, photos, "--sidecar", "txt")
    (row,) = map(json.loads, find(word, photos, "--json", "--top", 1).lines)
    assert len(set(row["texts"])) == 1, "read from .captioner.jsonl and from the sidecar"
    bad = find(word, photos, "--captions", photos / "red.jpg")
    assert bad.code == 1 and "is not what captioner caption --output writes" in bad.err and len(bad.lines) == 3


def test_unknown_words_are_reported(find, photos: Path) -> None:
    (photos / "blue.txt").write_text("Otto\n")
    result = find("a dog with Otto", photos)
    assert result.lines[0].startswith(str(photos / "blue.jpg"))
    assert "not in the model's vocabulary, so searched in texts only: with, otto" in result.err
    nothing = find("xyzzy", photos)
    assert (nothing.code, nothing.out) == (0, "") and "found nothing" in nothing.err


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[dict[str, Any]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag == "a":
            self.links.append(unquote(dict(attributes)["href"]))
        if tag == "img":
            self.images.append(dict(attributes))


def test_the_contact_sheet_shows_and_links_the_photos(find, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "red.jpg", photos / "a & b #1 <i>.jpg")
    (photos / "blue.txt").write_text('<script>alert("x")</script>\n')
    page = tmp_path / "sheets" / "found.html"
    result = find("a <b>dog</b> & more", photos, "-o", page)
    assert result.err.splitlines()[-1] == f"{page}: 4 of 4 photos"
    text = page.read_text()
    parsed = _Page(text)
    assert [os.path.normpath(page.parent / link) for link in parsed.links] == [
        line.partition(": ")[0] for line in result.lines
    ]
    assert len(parsed.images) == 4 and all(
        image["src"].startswith("data:image/jpeg;base64,") for image in parsed.images
    )
    assert "<script" not in text and "<b>" not in text and "default-src 'none'" in text
    assert find("a dog", photos, "-o", page).code == 0 and page.read_text() != text
    page.write_text("my notes")
    refused = find("a dog", photos, "-o", page)
    assert refused.code == 1 and "is not a figure that this program drew" in refused.err
    assert page.read_text() == "my notes" and refused.out == ""


def test_wrong_usage(find, run, model: Path, partner: Path, photos: Path, tmp_path: Path) -> None:
    gone = find("a dog", tmp_path / "gone")
    assert gone.code == 1 and "no such folder; give the folder of the photos" in gone.err
    lost = find("a dog", photos, "--captions", tmp_path / "gone.csv")
    assert lost.code == 1 and "gone.csv: cannot be read (No such file" in lost.err and len(lost.lines) == 3
    assert find("a dog", photos, "-o", "sheet.pdf").code == 2
    (tmp_path / "empty").mkdir()
    empty = find("a dog", tmp_path / "empty")
    assert empty.code == 1 and "no images in this folder" in empty.err
    unset = find("a dog", "")
    assert unset.code == 2 and "the value is empty; give one" in unset.err
    blank = find("...", photos)
    assert blank.code == 1 and blank.err.startswith("error: '...': has no words")
    several = run("find", "a dog", photos, "--model", f"{model}+{partner}")
    assert several.code == 2 and "give one model" in several.err
    (photos / INDEX).write_bytes(b"notes" * 1000)
    foreign = find("a dog", photos)
    assert foreign.code == 1 and "not an index of captioner" in foreign.err
    assert find("a dog", photos, "--index", tmp_path / "mine.index").code == 0


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that its user must not write to")
def test_a_folder_that_must_not_be_written_to(find, photos: Path, tmp_path: Path) -> None:
    photos.chmod(0o500)
    try:
        refused = find("a dog", photos)
        assert refused.code == 1 and "must not be written to" in refused.err
        assert find("a dog", photos, "--index", tmp_path / "mine.index").code == 0
    finally:
        photos.chmod(0o700)
