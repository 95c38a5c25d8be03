"""The output file of a collection: continued, killed, damaged, and left alone where it is not ours."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captioner.caption import Caption
from captioner.collection.items import Item
from captioner.collection.record import Record, open_record
from captioner.data import rows
from captioner.errors import BulkError, FileError, ImageError

TWO = Caption("A dog.", ["a", "dog"], -1.0, others=[Caption("A cat.", ["a", "cat"], -2.0)])
kinds = pytest.mark.parametrize("kind", ["jsonl", "csv"])


def photos(folder: Path, *names: str) -> list[Item]:
    for name in names:
        if not (folder / name).exists():
            (folder / name).write_bytes(name.encode())
            os.utime(folder / name, (1000, 1000))
    return [Item.of_file(str(folder / name)) for name in names]


def run(path: Path, items: Iterable[Item], *, bad: Iterable[str] = (), most: int = 99, **options: Any) -> Record:
    """Caption items, and stop after ``most`` of them as if killed."""
    with open_record(path, model="tiny", **options) as record:
        for done, item in enumerate(record.chosen(items)):
            if done == most:
                record._stale = False  # a killed run does not clean up
                break
            result = ImageError(item.name, "is damaged") if Path(item.name).name in bad else TWO
            record.write(rows.row(item.name, result, model="tiny", stamp=item.stamp))
    return record


def found(path: Path) -> list[tuple[str, bool]]:
    """The images in a file, and whether each has a caption; the captions of one image count once."""
    with open(path, newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            each = [(Path(rows.unguarded(row["image"])).name, bool(row["caption"])) for row in csv.DictReader(file)]
        else:
            each = [(Path(row["image"]).name, bool(row["caption"])) for row in map(json.loads, file)]
    return list(dict.fromkeys(each))


@kinds
def test_a_second_run_captions_new_changed_and_failed_images(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"out.{kind}"
    first = run(path, photos(tmp_path, "1", "2", "=3"), bad=["2"])
    assert str(first.counts) == "2 captioned, 1 failed"
    again = run(path, photos(tmp_path, "1", "=3"))
    assert str(again.counts) == "2 captioned before" and found(path) == [("1", True), ("2", False), ("=3", True)]
    (tmp_path / "1").write_bytes(b"another photo")
    os.utime(tmp_path / "=3", (2000, 2000))
    third = run(path, photos(tmp_path, "1", "2", "=3", "4", "4"))
    assert str(third.counts) == "4 captioned (1 new, 2 changed, 1 failed before)"
    assert found(path) == [("1", True), ("2", True), ("=3", True), ("4", True)]
    assert len(path.read_text().splitlines()) == (4 if kind == "jsonl" else 9)
    assert str(run(path, photos(tmp_path, "1", "2", "=3", "4")).counts) == "4 captioned before"


@kinds
def test_a_killed_run_loses_nothing_and_the_next_run_removes_repeated_rows(tmp_path: Path, kind: str) -> None:
    path, names = tmp_path / f"out.{kind}", [f"{number}" for number in range(6)]
    run(path, photos(tmp_path, *names), bad=["5"], most=3)
    assert [name for name, _ in found(path)] == names[:3]
    with open(path, "ab") as file:
        file.write(b'{"image": "3", "cap' if kind == "jsonl" else b'"two\nlines')  # cut off in a row
    run(path, photos(tmp_path, *names), bad=["5"])
    assert [name for name, _ in found(path)] == names
    run(path, photos(tmp_path, *names), most=1)  # the last one, which failed: its old and new rows meet
    assert found(path) == [(name, True) for name in names]
    os.utime(tmp_path / "0", (3000, 3000))
    os.utime(tmp_path / "1", (3000, 3000))
    run(path, photos(tmp_path, *names), most=1)
    assert path.read_text().count("A dog.") == 7
    run(path, photos(tmp_path, *names))
    assert path.read_text().count("A dog.") == 6 and found(path)[-2:] == [("0", True), ("1", True)]


@kinds
def test_a_last_row_stays_whose_line_end_an_editor_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"out.{kind}"
    run(path, photos(tmp_path, "1", "2"))
    path.write_text(path.read_text().replace("A cat.", "My cat.").rstrip("\n"))
    assert str(run(path, photos(tmp_path, "1", "2", "3")).counts) == "1 captioned, 2 captioned before (1 new)"
    assert found(path) == [("1", True), ("2", True), ("3", True)] and path.read_text().count("My cat.") == 2


@kinds
@pytest.mark.parametrize(
    "text",
    [
        *("my notes\n", "no line end", "[]\n", "a,b\n1,2\n", "a,b\n1,2", '{"image": 1}\n', '{}\n{"a": 2}'),
        '{"image": ["1"], "model": "tiny", "error": null, "bytes": 1, "modified": null}\n',
    ],
)
def test_a_file_of_another_kind_is_left_alone(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / f"out.{kind}"
    path.write_text(text)
    with pytest.raises(BulkError, match=r"out\.\w+: .* is not what this command writes .*--overwrite"):
        run(path, photos(tmp_path, "1"))
    assert path.read_text() == text
    run(path, [], overwrite=True)
    assert path.read_text() == text, "nothing was captioned, so nothing is replaced"
    assert str(run(path, photos(tmp_path, "1"), overwrite=True).counts) == "1 captioned"
    assert found(path) == [("1", True)]


def test_other_options_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    run(path, photos(tmp_path, "1"))
    with pytest.raises(BulkError, match="its header is not what this command writes with these options"):
        run(path, photos(tmp_path, "1"), more=("language", "translation"))
    with (
        pytest.raises(BulkError, match=r"begun with another model \('tiny', not 'huge'\)"),
        open_record(path, model="huge"),
    ):
        pass
    assert found(path) == [("1", True)]


@kinds
def test_images_without_the_language_are_captioned_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"out.{kind}"

    def translated(language: str) -> str:
        with open_record(path, model="tiny", more=("language", "translation"), language=language) as record:
            for item in record.chosen(photos(tmp_path, "1", "2")):
                row = rows.row(item.name, replace(TWO, others=[]), model="tiny", stamp=item.stamp)
                record.write(row | {"translation": {"language": "de", "text": "Ein Hund."}})
        return str(record.counts)

    if kind == "jsonl":
        run(path, photos(tmp_path, "1"))
        assert translated("de") == "2 captioned (1 new, 1 changed)"
    else:
        assert translated("de") == "2 captioned"
    assert [translated(each) for each in ("DE", "fr")] == ["2 captioned before", "2 captioned (2 changed)"]
    if kind == "jsonl":
        assert str(run(path, photos(tmp_path, "1", "2")).counts) == "2 captioned before"


def test_the_record_of_a_folder_holds_wherever_it_is_named_from_and_for_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "album").mkdir()
    names = photos(tmp_path / "album", "1", "2")
    path = tmp_path / "album" / "record.jsonl"
    assert str(run(path, names, folder=tmp_path / "album").counts) == "2 captioned"
    assert [json.loads(line)["image"] for line in path.read_text().splitlines()] == ["1", "2"]
    for place, folder in ((tmp_path, "album"), (tmp_path / "album", "."), (tmp_path / "album", "../album")):
        monkeypatch.chdir(place)
        items = [Item.of_file(str(Path(folder, name))) for name in ("1", "2")]
        assert str(run(Path(folder, "record.jsonl"), items, folder=Path(folder)).counts) == "2 captioned before"
    with open_record(path, model="huge", folder=tmp_path / "album") as record:
        assert len(list(record.chosen(names))) == 2


def test_overwrite_captions_everything_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    run(path, photos(tmp_path, "1", "2"))
    assert str(run(path, photos(tmp_path, "1", "2"), overwrite=True).counts) == "2 captioned (2 changed)"
    assert found(path) == [("1", True), ("2", True)]


@pytest.mark.parametrize("how", ["removed", "replaced", "folder"])
def test_a_file_that_another_program_removes_or_replaces_meanwhile_is_named(tmp_path: Path, how: str) -> None:
    path = tmp_path / "folder" / "out.jsonl"
    path.parent.mkdir()
    with (
        pytest.raises(FileError, match=r"out\.jsonl: another program has removed or replaced it meanwhile"),
        open_record(path, model="tiny") as record,
    ):
        for item in record.chosen(photos(tmp_path, "1", "2")):
            record.write(rows.row(item.name, TWO, model="tiny", stamp=item.stamp))
            if how == "folder":
                shutil.rmtree(path.parent, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
                if how == "replaced":
                    path.write_text("mine\n")
    assert how != "replaced" or path.read_text() == "mine\n"


def test_a_folder_that_must_not_be_written_to_is_named_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    path = tmp_path / "out.jsonl"
    with (
        pytest.raises(FileError, match=r"^\S+/out\.jsonl: the folder \S+ must not be written to"),
        open_record(path, model="t"),
    ):
        pass


def test_only_one_run_writes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_record(path, model="tiny"):
        with pytest.raises(BulkError, match="another process writes it"), open_record(path, model="tiny"):
            pass
        with open_record(tmp_path / "other.jsonl", model="tiny"):
            pass
    assert not list(tmp_path.iterdir()), "nothing was captioned, so nothing is left"
