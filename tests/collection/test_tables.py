"""Parquet files: which column has the images, and what one value or a whole group may take."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from captioner.collection import limits
from captioner.collection.limits import BadPart
from captioner.collection.storage import size_of
from captioner.collection.tables import NoImages, column_of, images_in_group, open_table
from captioner.errors import BulkError
from tests.collection.conftest import png

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def read(path: Path, column: str | None = None) -> tuple[list[bytes | str], str]:
    """Return the images of a file's first group, and the reason if it is not read to its end."""
    found: list[bytes | str] = []
    with open(path, "rb") as file:
        table = open_table(file)
        try:
            for row, image in images_in_group(table, 0, column_of(table.schema_arrow, column), size_of(file)):
                assert row == len(found)
                found.append(image)
        except BadPart as error:
            return found, str(error)
    return found, ""


def write(path: Path, columns: dict[str, Any], **settings: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path, **settings)
    return path


PLAIN = pyarrow.array([b"1", None, b""], pyarrow.binary())
IMAGES = [b"1", "has no bytes", "has no bytes"]


@pytest.mark.parametrize(
    "array",
    [
        PLAIN,
        PLAIN.cast(pyarrow.large_binary()),
        PLAIN.dictionary_encode(),
        pyarrow.array([{"bytes": b"1", "path": "a"}, None, {"bytes": b"", "path": "b"}]),
        pyarrow.array([{"path": "a", "thumbnail": b"t", "bytes": b"1"}, {"path": "c"}, {"path": "b", "bytes": None}]),
        pyarrow.array([{"image": {"bytes": b"1"}, "label": 1}, {"image": None, "label": 2}, None]),
        pyarrow.array([{"encoded.data": b"1"}, None, {"encoded.data": b""}]),
    ],
    ids=["binary", "large", "dictionary", "struct", "thumbnail", "nested", "dotted"],
)
def test_the_only_column_of_bytes_is_found(tmp_path: Path, array: Any) -> None:
    path = write(tmp_path / "t.parquet", {"label": [1, 2, 3], "the.image": array, "text": ["a", "b", "c"]})
    assert read(path) == read(path, "the.image") == (IMAGES, "")
    dictionary = write(tmp_path / "d.parquet", {"the.image": array}, store_schema=False, compression="zstd")
    assert read(dictionary) == (IMAGES, "")


def test_one_of_several_columns_is_named(tmp_path: Path) -> None:
    records = pyarrow.array([{"bytes": b"2", "path": "a", "mask": b"3"}])
    path = write(tmp_path / "t.parquet", {"photo": [b"1"], "image": records, "a.b": [b"4"], "label": [1]})
    with pytest.raises(BulkError) as error:
        read(path)
    assert str(error.value) == (
        "has 3 columns of bytes; run again and name one with --column: photo, image.bytes, image.mask, a.b"
    )
    names = str(error.value).split(": ")[1].split(", ")
    assert [read(path, name) for name in names] == [([value], "") for value in (b"1", b"2", b"3", b"4")]
    assert read(path, "image") == ([b"2"], "")
    for wrong in ("label", "none", "image.path", "a"):
        with pytest.raises(BulkError, match=f"has no column '{wrong}' of bytes; .*: photo, image.bytes"):
            read(path, wrong)


def test_a_file_that_describes_images_has_none(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"url": ["a"], "size": [1], "tags": [["a"]]})
    for column in (None, "url"):
        with pytest.raises(NoImages):
            read(path, column)


@pytest.mark.parametrize(
    "array",
    [
        pyarrow.array([[b"1", b"2"]], pyarrow.list_(pyarrow.binary())),
        pyarrow.array([[{"bytes": b"1", "path": "a"}]]),
        pyarrow.array([[("key", b"1")]], pyarrow.map_(pyarrow.string(), pyarrow.binary())),
        pyarrow.array([{"images": [b"1"]}]),
    ],
    ids=["list", "records", "map", "nested"],
)
def test_images_in_lists_are_reported(tmp_path: Path, array: Any) -> None:
    path = write(tmp_path / "t.parquet", {"tags": [["a"]], "images": array})
    with pytest.raises(BulkError, match="has bytes only in lists, in images; save it again with a row for each image"):
        read(path)


def test_columns_of_one_name_are_to_be_renamed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    image = pyarrow.array([b"1"])
    parquet.write_table(pyarrow.Table.from_arrays([image, image], names=["image", "image"]), path)
    with pytest.raises(BulkError, match="has 2 columns of the name image; rename all but one"):
        read(path)


def test_a_value_that_is_too_large_is_a_row_and_the_next_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", 1000)
    path = write(tmp_path / "t.parquet", {"image": [b"1", bytes(1001), bytes(1000), *[b"2"] * 20]})
    (first, second, third, *others), why = read(path)
    assert others == [b"2"] * 20
    assert (first, third, why) == (b"1", bytes(1000), "") and "has 1,001 bytes, more than the 1,000" in str(second)


@pytest.mark.parametrize("codec", ["zstd", "gzip", "snappy", "none"])
def test_a_value_that_a_dictionary_repeats_is_held_once(tmp_path: Path, monkeypatch: Any, codec: str) -> None:
    monkeypatch.setattr(limits, "_ALLOWED", 20 << 20)
    rows, size = 2000, 2 << 20
    numbers = pyarrow.array([0] * rows, pyarrow.int32())
    values = pyarrow.DictionaryArray.from_arrays(numbers, [os.urandom(16) * (size // 16)])
    path = write(
        tmp_path / "t.parquet",
        {"image": values},
        compression=codec,
        dictionary_pagesize_limit=1 << 30,
        store_schema=False,
    )
    count, before = 0, pyarrow.total_allocated_bytes()
    with open(path, "rb") as file, pytest.raises(BadPart, match="over 100 times as many"):
        for _, image in images_in_group(open_table(file), 0, ("image",), path.stat().st_size):
            assert len(image) == size and pyarrow.total_allocated_bytes() - before < 6 * size
            count += 1
    assert 10 <= count < rows


def test_groups_that_claim_more_than_they_can_hold_are_not_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", 1 << 20)
    path = write(tmp_path / "t.parquet", {"image": [bytes(9 << 20)]}, compression="zstd")
    found, why = read(path)
    assert found == [] and "unpack to 9,4" in why and "over 100 times as many" in why
    path = write(tmp_path / "t.parquet", {"image": [os.urandom(5 << 20), b"1"]})
    found, why = read(path)
    assert found == [] and why.startswith("an image in it has 2,6") and "more than the 1,048,576 that are read" in why
    nothing = write(
        tmp_path / "n.parquet", {"image": pyarrow.nulls(1_100_000, pyarrow.binary())}, row_group_size=1 << 21
    )
    found, why = read(nothing)
    assert found == [] and "bytes cannot hold 1,100,000 images" in why


def test_a_damaged_file_ends_with_a_reason(tmp_path: Path) -> None:
    whole = write(tmp_path / "t.parquet", {"image": [png(i) + os.urandom(5000) for i in range(20)]}).read_bytes()
    for number in range(60):
        data = bytearray(whole)
        start = number * len(whole) // 60
        data[start : start + 8] = b"\xff" * 8
        path = tmp_path / "damaged.parquet"
        path.write_bytes(data)
        with suppress(BadPart, BulkError, NoImages):
            read(path)
