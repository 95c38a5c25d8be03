"""Captions in text files next to images: what a person wrote in them, and the record of what this program wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captioner.errors import ConfigError, FileError
from captioner.metadata import (
    RECORD,
    TEXT,
    TextSidecars,
)
from captioner.metadata import text_sidecars as module
from tests.metadata.samples import PERSON, picture


def test_a_text_file_has_prefix_caption_and_suffix(image: Path) -> None:
    outcome = TextSidecars(prefix="ohwx, ", suffix=", photo").write(image, "a dog – on a beach")
    assert outcome.path == image.with_name("photo.txt") and outcome.written == (TEXT,)
    assert outcome.path.read_bytes() == "ohwx, a dog – on a beach, photo\n".encode()
    other = TextSidecars(extension="caption").write(image, "a dog")
    assert other.path == image.with_name("photo.caption") and other.path.read_text() == "a dog\n"


def test_a_persons_text_is_kept_and_this_programs_replaced(image: Path) -> None:
    path = image.with_suffix(".txt")
    path.write_text(PERSON, encoding="utf-8")
    assert TextSidecars().write(image, "a dog").kept == (TEXT,)
    assert path.read_text(encoding="utf-8") == PERSON
    assert TextSidecars(overwrite=True).write(image, "a dog").written == (TEXT,)
    assert TextSidecars().write(image, "a cat").written == (TEXT,)  # another run, which reads the record
    assert TextSidecars().write(image, "a cat").written == ()
    path.write_bytes(b"\xef\xbb\xbfa cat, ours\r\n")
    assert TextSidecars().write(image, "a dog").kept == (TEXT,)
    path.write_bytes(b"\xef\xbb\xbfa cat\r\n")  # the form in which an editor saves it makes no author
    assert TextSidecars().write(image, "a dog").written == (TEXT,)
    path.write_text(" \n")
    assert TextSidecars().write(image, "a dog").written == (TEXT,)


def test_without_the_record_a_text_is_a_persons(image: Path) -> None:
    TextSidecars().write(image, "a dog")
    image.with_name(RECORD).unlink()
    assert TextSidecars().write(image, "a cat").kept == (TEXT,)


def test_a_damaged_record_counts_as_far_as_it_is_whole(image: Path) -> None:
    TextSidecars().write(image, "a dog")
    record = image.with_name(RECORD)
    record.write_bytes(b'{"x"\n\xff\n[]\n' + record.read_bytes() + b'{"sidecar": "oth')
    writer = TextSidecars()
    assert writer.write(image, "a cat").written == writer.write(image, "a dog").written == (TEXT,)
    lines = record.read_bytes().splitlines()
    assert [json.loads(line)["image"] for line in (lines[3], *lines[-2:])] == ["photo.jpg"] * 3


def test_two_images_do_not_share_a_sidecar(image: Path) -> None:
    other = image.with_suffix(".png")
    picture().save(other)
    writer = TextSidecars()
    writer.write(image, "a dog")
    for again in (writer, TextSidecars()):  # also in a later run
        with pytest.raises(FileError, match=r"photo\.txt: is the sidecar of photo\.jpg, and photo\.png "):
            again.write(other, "a cat")
    assert TextSidecars().write(other, "a dog").written == ()
    image.unlink()
    assert TextSidecars().write(other, "a cat").written == (TEXT,)
    other.with_suffix(".txt").write_text(PERSON, encoding="utf-8")
    picture().save(image)
    assert [writer.write(each, "a bird").kept for each in (image, other)] == [(TEXT,)] * 2
    assert writer.write(image, " ").written == ()


def test_an_image_is_never_taken_for_its_sidecar(image: Path) -> None:
    for extension in (".png", ".CR2", "xmp", "", ".", "..txt", "a/b", ".t\nx", ".t x"):
        with pytest.raises(ConfigError, match="not the extension of a text file"):
            TextSidecars(extension=extension)
    odd = image.rename(image.with_suffix(".txt"))
    with pytest.raises(FileError, match="would replace it"):
        TextSidecars().write(odd, "a dog")


def test_ten_thousand_sidecars_in_a_folder_are_replaced_in_one_reading_of_the_record(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"sidecar": f"{n}.txt", "image": f"{n}.jpg", "mark": str(n)}) for n in range(10_000)]
    image.with_name(RECORD).write_text("\n".join(lines) + "\n")
    parsed = []
    loads = json.loads
    monkeypatch.setattr(module.json, "loads", lambda line: parsed.append(line) or loads(line))
    writer = TextSidecars()
    for number in range(20):
        writer.write(image, f"{number} dogs")
    assert len(parsed) < 10_000 + 40
