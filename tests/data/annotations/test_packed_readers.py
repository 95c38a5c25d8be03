"""Parquet and WebDataset, on files that datasets 5.2 and webdataset 1.0.2 wrote, and on malformed ones."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.data.annotations import read_captions
from captioner.data.images import load_image
from captioner.errors import AnnotationError
from tests.data.caption_files import captions_of
from tests.data.test_packed import tar_of

FILES = Path(__file__).parent / "files"


@pytest.fixture
def hugging_face(tmp_path: Path) -> Path:
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        (tmp_path / "data").mkdir(exist_ok=True)
        shutil.copy(FILES / name, tmp_path / "data" / name)
    return tmp_path


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


IMAGE = {"bytes": b"\xff\xd8 jpeg", "path": None}


def test_parquet_of_hugging_face(hugging_face: Path) -> None:
    data = read_captions(hugging_face)
    assert (data.format, data.problems, data.notes) == ("parquet", (), ())
    assert data.splits == {"test": 6, "train": 6}
    assert captions_of(data.split("train")) == {f"{index}.png": (f"a caption {index}",) for index in range(6)}
    assert captions_of(data.split("test")) == {f"{index}.jpg": (f"a {index}", f"b {index}") for index in range(6)}
    file = hugging_face / "data/train-00000-of-00001.parquet"
    assert [str(image.path) for image in data.split("train").images] == [f"{file}:{row}" for row in range(6)]
    assert [load_image(image.path).getpixel((0, 0)) for image in data.split("train").images] == [
        (30 * index, 50, 90) for index in range(6)
    ]
    assert read_captions(file).images == data.split("train").images


def test_rows_of_one_image_are_joined_by_its_name(tmp_path: Path) -> None:
    columns = {"image": [IMAGE] * 4, "image_id": [7, 7, 8, 8], "caption": ["a", "b", "c", ""]}
    data = read_captions(parquet(tmp_path / "x.parquet", **columns))
    assert captions_of(data) == {"7": ("a", "b"), "8": ("c",)}
    assert [str(image.path) for image in data.images] == [f"{tmp_path}/x.parquet:0", f"{tmp_path}/x.parquet:2"]
    assert [problem.place for problem in data.problems] == [f"{tmp_path}/x.parquet:3"]


def test_numbers_that_start_over_in_every_split_are_different_images(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        parquet(tmp_path / split / "0000.parquet", image=[IMAGE], image_id=[0], text=[split])
    assert captions_of(read_captions(tmp_path)) == {"train/0": ("train",), "val/0": ("validation",)}


def test_images_without_names_have_those_of_their_rows(tmp_path: Path) -> None:
    image = {"bytes": b"x", "path": "image.png"}  # the same in every row
    data = read_captions(parquet(tmp_path / "x.parquet", image=[image] * 2, caption_0=["a", "b"], caption_1=["c", "d"]))
    assert captions_of(data) == {"x.parquet:0": ("a", "c"), "x.parquet:1": ("b", "d")}


def test_a_column_of_splits(tmp_path: Path) -> None:
    file = parquet(tmp_path / "test.parquet", image=[IMAGE] * 2, caption=["a", "b"], split=["train", "val"])
    assert read_captions(file).splits == {"train": 1, "val": 1}


def test_parquet_may_name_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    data = read_captions(parquet(tmp_path / "x.parquet", image=["a.jpg", "a.jpg"], caption=["x", "y"]))
    assert [(image.image_id, image.path, image.captions) for image in data.images] == [
        ("a.jpg", tmp_path / "a.jpg", ("x", "y"))
    ]


def test_parquet_may_be_the_metadata_of_an_imagefolder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.jpg").write_bytes(b"jpeg")
        parquet(tmp_path / split / "metadata.parquet", file_name=["a.jpg"], text=[split])
    data = read_captions(tmp_path)
    assert [(image.split, image.path, image.captions) for image in data.images] == [
        ("test", tmp_path / "test/a.jpg", ("test",)),
        ("train", tmp_path / "train/a.jpg", ("train",)),
    ]


def test_wrong_parquet(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"x\.parquet: its columns are image, label; rename .* caption or text"):
        read_captions(parquet(tmp_path / "x.parquet", image=[IMAGE], label=[1]))
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(AnnotationError, match=r"x\.parquet: is not a Parquet file, or damaged"):
        read_captions(tmp_path / "x.parquet")
    for name in ("captions", "questions"):
        parquet(tmp_path / "two" / name / "train.parquet", image=[IMAGE], caption=["x"])
    with pytest.raises(AnnotationError, match="several data sets, in captions, questions; give one"):
        read_captions(tmp_path / "two")


def test_webdataset_of_its_own_library(tmp_path: Path) -> None:
    file = Path(shutil.copy(FILES / "webdataset-train-0000.tar", tmp_path))
    data = read_captions(tmp_path)
    assert (data.format, data.problems, data.splits) == ("webdataset", (), {"train": 2})
    assert captions_of(data) == {
        "dogs/0001.jpg": ("a red square",),
        "dogs/0002.jpg": ("a blue square", "blue all over"),
    }
    assert str(data.images[1].path) == f"{file}:dogs/0002.jpg"
    assert load_image(data.images[0].path).getpixel((0, 0))[0] > 200
    assert read_captions(file).images == data.images


def test_webdatasets_members(tmp_path: Path) -> None:
    members = {
        "1.jpg": b"",
        "1.txt": "Zwei Sätze\n\nin Zeilen\n".encode(),
        "1.json": b'{"caption": "of img2dataset"}',
        "2.seg.png": b"",
        "2.png": b"",
        "2.caption": b"c",
        "3.txt": b"no image",
        "4.webp": b"",
        "4.json": b"{",
        "__MACOSX/._1.txt": b"x",
        "5.jpg": b"",
        "5.cls": b"5",
    }
    file = tar_of(tmp_path / "val.tar", members)
    data = read_captions(file)
    assert captions_of(data) == {"1.jpg": ("Zwei Sätze", "in Zeilen"), "2.png": ("c",)}
    assert data.splits == {"val": 2}
    reasons = {str(problem).removeprefix(f"{file}:").split(":")[0]: problem.reason for problem in data.problems}
    assert list(reasons) == ["3.txt", "4.json", "4.webp", "5.jpg"]
    assert "no image" in reasons["3.txt"] and "not JSON" in reasons["4.json"] and "no caption" in reasons["5.jpg"]


def test_numbers_that_start_over_in_every_tar_file(tmp_path: Path) -> None:
    for shard in ("0", "1"):
        tar_of(tmp_path / f"{shard}.tar", {"00.jpg": b"", "00.txt": shard.encode()})
    assert captions_of(read_captions(tmp_path)) == {"00.jpg": ("0",), "1/00.jpg": ("1",)}


def test_wrong_tar_files(tmp_path: Path) -> None:
    good = tar_of(tmp_path / "good.tar", {"1.jpg": b"x", "1.txt": b"y"}).read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(good))
    (tmp_path / "packed.tar").write_bytes(gzip.compress(good))
    (tmp_path / "other").write_bytes(good)
    for name, why in (("x.tar.gz", "gunzip"), ("packed.tar", "gunzip"), ("other", r"rename it to end in \.tar")):
        with pytest.raises(AnnotationError, match=f"{name}: .*{why}"):
            read_captions(tmp_path / name)


def test_binary_arrays_and_json_are_not_captions(tmp_path: Path) -> None:
    file = tar_of(
        tmp_path / "x.tar", {"1.jpg": b"", "1.txt": b"\0\1\2\0" * 9, "2.jpg": b"", "2.json": json.dumps([1]).encode()}
    )
    with pytest.raises(AnnotationError, match=r"no image with a caption, read as webdataset; 2 records"):
        read_captions(file)
