"""Captions next to photos and inside them, through the command."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from captioner import files
from captioner.errors import CaptionerError
from captioner.metadata import texts_of
from tests.disks import small_disk


@pytest.fixture
def caption(run, model: Path):
    return lambda *arguments: run("caption", "--model", model, "--device", "cpu", *arguments)


@pytest.fixture
def photos(images: Path) -> Path:
    (images / "broken.jpg").unlink()
    shutil.rmtree(images / "more")
    return images


def sentences(caption, photos: Path) -> dict[str, str]:
    return {Path(name).name: text for name, text in (line.split(": ") for line in caption(photos).lines)}


def test_every_place_gets_the_caption_and_the_next_run_captions_nothing(
    caption, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sentences(caption, photos)
    pixels = {name: Image.open(photos / name).tobytes() for name in expected}
    everywhere = (photos, "--sidecar", "txt", "--sidecar", "xmp", "--embed", "--prefix", "a photo: ")
    result = caption(*everywhere)
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines()[-1] == f"{photos / '.captioner.jsonl'}: 3 captioned"
    for name, sentence in expected.items():
        assert (photos / name).with_suffix(".txt").read_text() == f"a photo: {sentence}\n"
        found = {(text.place, text.field, text.language): text for text in texts_of(photos / name)}
        assert {text.text for text in found.values()} == {sentence}
        assert {place for place, _, _ in found} == {name, f"{name}.xmp"}
        assert {language for _, _, language in found} == {"x-default", "en"}
        assert {text.author for text in found.values()} == {"captioner"}
        assert Image.open(photos / name).tobytes() == pixels[name]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in photos.iterdir()}
    monkeypatch.setattr("captioner.Captioner.from_pretrained", lambda *arguments, **more: pytest.fail("it was loaded"))
    again = caption(*everywhere)
    assert again.err == f"{photos / '.captioner.jsonl'}: 3 captioned before\n"
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in photos.iterdir()} == before


def test_a_missing_sidecar_is_written_again(caption, photos: Path) -> None:
    caption(photos, "--sidecar", "txt")
    (photos / "red.txt").unlink()
    result = caption(photos, "--sidecar", "txt")
    assert "1 captioned, 2 captioned before (1 changed)" in result.err and (photos / "red.txt").exists()


def test_what_a_person_wrote_is_kept(caption, photos: Path) -> None:
    expected = sentences(caption, photos)
    (photos / "red.caption").write_text("my own words\n")
    options = (photos, "--sidecar", "txt", "--extension", "caption")
    result = caption(*options)
    assert "kept captions by people in 1 photos; --overwrite replaces them" in result.err
    assert (photos / "red.caption").read_text() == "my own words\n"
    assert (photos / "blue.caption").read_text() == f"{expected['blue.jpg']}\n"
    assert caption(*options, "--overwrite").code == 0
    assert (photos / "red.caption").read_text() == f"{expected['red.jpg']}\n"


def test_a_sidecar_that_cannot_be_written_is_an_error_of_its_photo(caption, photos: Path, tmp_path: Path) -> None:
    (photos / "blue.jpg.xmp").write_text("<not xmp")
    result = caption(photos, "--sidecar", "xmp", "-o", tmp_path / "rows.jsonl")
    assert result.code == 1 and "blue.jpg.xmp: cannot be read as XMP" in result.err
    rows = {Path(row["image"]).name: row for row in map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())}
    assert "cannot be read as XMP" in rows["blue.jpg"]["error"] and rows["blue.jpg"]["caption"]
    assert (photos / "red.jpg.xmp").exists() and not rows["red.jpg"]["error"]
    assert (photos / "blue.jpg.xmp").read_text() == "<not xmp" and not (photos / ".captioner.jsonl").exists()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(photos / "red.jpg", "red.jpg")
    assert "a.zip:red.jpg: is not a file of its own" in caption(tmp_path / "a.zip", "--embed").err


def test_a_translation_comes_first(caption, photos: Path, translator: Path) -> None:
    red = photos / "red.jpg"
    rows = json.loads(caption(red, "--json", "--translator", translator).out)
    assert caption(red, "--embed", "--sidecar", "txt", "--translator", translator).code == 0
    german = rows["translation"]["text"]
    assert red.with_suffix(".txt").read_text() == f"{german}\n"
    found = {text.language: text.text for text in texts_of(red) if text.field.endswith("description")}
    assert found == {"x-default": german, "de": german, "en": rows["caption"]}


def test_texts_of_people_are_kept_if_a_file_cannot_be_continued(caption, photos: Path) -> None:
    (photos / ".captioner.jsonl").write_text("notes\n")
    result = caption(photos, "--sidecar", "txt")
    assert result.code == 1 and result.err.endswith("; delete it, and all photos are captioned again\n")
    (photos / "out.csv").write_text("notes\n")
    result = caption(photos, "--sidecar", "txt", "-o", photos / "out.csv")
    assert result.code == 1 and result.err.endswith("; give another --output\n")
    assert not (photos / "red.txt").exists()


def test_options_that_need_another_one(caption, photos: Path) -> None:
    for option, other in (
        (("--prefix", "a"), "--sidecar txt"),
        (("--sidecar-name", "photo.xmp", "--sidecar", "txt"), "--sidecar xmp"),
        (("--overwrite",), "--output, --sidecar or --embed"),
    ):
        result = caption(photos, *option)
        assert result.code == 2 and f"give {other} too" in result.err.replace("\n", " ")


def test_a_full_disk_harms_no_photo_and_the_next_run_finishes(caption, images: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as place:
        photos = place / "photos"
        photos.mkdir()
        for number in range(6):
            shutil.copy(images / "red.jpg", photos / f"{number}.jpg")
        pixels = Image.open(images / "red.jpg").tobytes()
        filler = place / "filler"
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        result = caption(photos, "--embed", "--sidecar", "xmp", "-o", tmp_path / "rows.jsonl")
        assert result.code == 1 and result.err.count("the disk is full") == 6
        assert all(Image.open(path).tobytes() == pixels for path in photos.glob("*.jpg"))
        assert {path.suffix for path in photos.iterdir()} == {".jpg"}, "nothing is left half-written"
        filler.unlink()
        again = caption(photos, "--embed", "--sidecar", "xmp", "-o", tmp_path / "rows.jsonl")
        assert again.code == 0 and "6 captioned (6 failed before)" in again.err
        assert all(texts_of(path) and Image.open(path).tobytes() == pixels for path in photos.glob("*.jpg"))


def test_a_second_run_at_once_is_refused_and_harms_nothing(caption, photos: Path) -> None:
    caption(photos, "--embed")
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    with files.only_writer(photos / ".captioner.jsonl", error=CaptionerError):
        refused = caption(photos, "--embed", "--overwrite")
        assert refused.code == 1 and "another process writes it" in refused.err
        elsewhere = caption(photos, "--embed", "-o", photos.parent / "mine.jsonl")
        assert elsewhere.code == 0 and "3 captioned" in elsewhere.err
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_a_photo_that_changes_while_it_is_captioned_is_left_alone(
    caption, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captioner.collection import captioned as module

    original = module.captioned
    other = (photos / "blue.jpg").read_bytes()

    def changing(*arguments, **more):
        for item, result in original(*arguments, **more):
            if item.name.endswith("red.jpg"):
                (photos / "red.jpg").write_bytes(other)
            yield item, result

    monkeypatch.setattr(module, "captioned", changing)
    result = caption(photos, "--embed")
    assert result.code == 1 and f"{photos / 'red.jpg'}: another program has changed it" in result.err
    assert (photos / "red.jpg").read_bytes() == other and texts_of(photos / "green.png")
    monkeypatch.undo()
    again = caption(photos, "--embed")
    assert again.code == 0 and "1 captioned, 2 captioned before (1 failed before)" in again.err
