"""Rows have the same fields in every format, and tables are safe in spreadsheets."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from captioner.caption import Caption
from captioner.data.rows import FIELDS, Row, row, writer
from captioner.errors import ImageError

CAPTION = Caption("A dog.", ["a", "dog"], -1.23456789, others=[Caption("A cat.", ["a", "cat"], -2.0)])


def write(path: Path, *rows: Row) -> Path:
    with writer(path) as one:
        for each in rows:
            one(each)
    return path


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_good_and_bad_images_have_the_same_fields() -> None:
    good = row("1.jpg", CAPTION, model="tiny")
    bad = row("2.jpg", ImageError("elsewhere", "is damaged"), model="tiny")
    assert tuple(good)[:7] == tuple(bad) == FIELDS
    assert FIELDS == ("image", "caption", "log_probability", "model", "error", "bytes", "modified")
    assert [good[name] for name in FIELDS] == ["1.jpg", "A dog.", -1.2346, "tiny", None, None, None]
    assert list(bad.values()) == ["2.jpg", None, None, "tiny", "is damaged", None, None]
    stamped = row("1.jpg", CAPTION, model="tiny", stamp=(9, "2026-11-29T01:02:03.000004+00:00"))
    assert (stamped["bytes"], stamped["modified"]) == (9, "2026-11-29T01:02:03.000004+00:00")


FORMULAS = ["=1+1.jpg", "+1.jpg", "-1.jpg", "@sum.jpg", "\t=1.jpg", "\r=1.jpg", "'=1.jpg"]
PLAIN = ["'quoted'.jpg", "1=1.jpg", "two\rlines.jpg", "two\nlines.jpg", "two\r\nlines.jpg", '"a", "b".jpg']


@pytest.mark.parametrize("name", [*FORMULAS, *PLAIN])
def test_cells_are_guarded_and_names_can_be_restored(tmp_path: Path, name: str) -> None:
    cell = f"'{name}" if name in FORMULAS else name
    path = write(tmp_path / "t.csv", row(name, CAPTION, model="@tiny"), row("b.jpg", CAPTION, model="tiny"))
    found = table(path)
    assert [each["image"] for each in found] == [cell, cell, "b.jpg", "b.jpg"]
    assert re.sub(r"^'(?='*[=+\-@\t\r])", "", cell) == name
    assert {each["model"] for each in found} == {"'@tiny", "tiny"}
    assert [each["log_probability"] for each in found] == ["-1.2346", "-2.0"] * 2, "a number is not a formula"
    assert path.read_bytes().endswith(b"b.jpg,A cat.,-2.0,tiny,,,\n")


def test_every_format_has_the_same_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    plain = Caption("A dog.", ["a", "dog"], -1.23456789)
    rows = [row("1.jpg", plain, model="tiny"), row("2.jpg", ImageError("2.jpg", "is damaged"), model="tiny")]
    lines = [json.loads(line) for line in write(tmp_path / "t.jsonl", *rows).read_text().splitlines()]
    assert lines == rows
    short = [{name: each[name] for name in FIELDS} for each in rows]
    assert parquet.read_table(write(tmp_path / "t.parquet", *rows)).to_pylist() == short
    empty = [{name: "" if value is None else str(value) for name, value in each.items()} for each in short]
    assert table(write(tmp_path / "t.csv", *rows)) == empty


def test_a_name_that_is_not_utf8_is_kept(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    rows = [row(name, CAPTION, model="tiny")]
    assert json.loads(write(tmp_path / "t.jsonl", *rows).read_text(encoding="utf-8"))["image"] == name
    assert table(write(tmp_path / "t.csv", *rows))[0]["image"] == name
    assert parquet.read_table(write(tmp_path / "t.parquet", *rows)).to_pylist()[0]["image"] == r"caf\udce9.jpg"


def test_json_escapes_unusual_line_ends(tmp_path: Path) -> None:
    names = [f"{end}.jpg" for end in ("\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")]
    path = write(tmp_path / "t.jsonl", *(row(name, CAPTION, model="tiny") for name in names))
    assert [json.loads(line)["image"] for line in path.read_text(encoding="utf-8").splitlines()] == names


def test_a_file_appears_only_when_all_is_written(tmp_path: Path) -> None:
    for ending in ("jsonl", "csv"):
        with pytest.raises(RuntimeError), writer(tmp_path / f"t.{ending}") as one:
            one(row("1.jpg", CAPTION, model="tiny"))
            raise RuntimeError
    assert not list(tmp_path.iterdir())
