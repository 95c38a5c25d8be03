"""Imagefolders, LAVIS's lists, and text next to images, after the documentation of the programs that read them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from captioner.data.annotations import read_captions
from captioner.errors import AnnotationError
from tests.data.caption_files import captions_of, write


def images(folder: Path, *names: str) -> None:
    for name in names:
        write(folder / name, b"jpeg")


# -------------------------------------------------------------------------------------------------------- imagefolder


def test_an_imagefolder_with_a_folder_for_each_split(tmp_path: Path) -> None:
    # https://huggingface.co/docs/datasets/image_dataset#imagefolder
    write(tmp_path / "train/metadata.csv", 'file_name,text\n0001.png,A red car\nnested/0002.png,"A cat, asleep"\n')
    write(tmp_path / "validation/metadata.csv", "file_name,text\n0001.png,A dog\n")
    images(tmp_path, "train/0001.png", "train/nested/0002.png", "validation/0001.png")
    data = read_captions(tmp_path)
    assert (data.format, data.problems, data.notes) == ("imagefolder", (), ())
    assert data.splits == {"train": 2, "val": 1}
    assert captions_of(data) == {
        "train/0001.png": ("A red car",),
        "train/nested/0002.png": ("A cat, asleep",),
        "validation/0001.png": ("A dog",),
    }
    assert all(image.path == tmp_path / image.image_id for image in data.images)


def test_metadata_for_all_splits(tmp_path: Path) -> None:
    rows = [
        {"file_name": "train/a.jpg", "caption": ["one", "two"]},
        {"file_name": "test/b.jpg", "caption": ["three"]},
        {"file_name": "c.jpg", "caption": ["four"]},
    ]
    write(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    data = read_captions(tmp_path)
    assert data.splits == {"train": 1, "test": 1, "all": 1}
    assert captions_of(data)["train/a.jpg"] == ("one", "two")
    assert read_captions(tmp_path / "metadata.jsonl").images == data.images


def test_one_metadata_file_is_of_the_split_of_its_folder(tmp_path: Path) -> None:
    file = write(tmp_path / "test/metadata.jsonl", {"image": "a.jpg", "text": "x"})
    images(tmp_path, "test/a.jpg")
    (image,) = read_captions(file).images
    assert (image.split, image.path) == ("test", tmp_path / "test/a.jpg")


def test_a_column_of_splits_has_precedence(tmp_path: Path) -> None:
    write(tmp_path / "metadata.csv", "file_name,text,split\ntrain/a.jpg,x,dev\ntrain/b.jpg,y,\n")
    assert [image.split for image in read_captions(tmp_path).images] == ["dev", "train"]


def test_the_images_of_an_imagefolder_may_be_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "text/data/train/metadata.csv", "file_name,text\na.jpg,x\n")
    images(tmp_path, "photos/data/train/a.jpg")
    (image,) = read_captions(tmp_path / "text", images=tmp_path / "photos").images
    assert (image.split, image.path) == ("train", tmp_path / "photos/data/train/a.jpg")


# -------------------------------------------------------------------------------------------------------------- LAVIS


def test_lavis_lists(tmp_path: Path) -> None:
    train = [
        {
            "caption": "A woman cuts a cake. ",
            "image": "val2014/COCO_val2014_000000522418.jpg",
            "image_id": "coco_522418",
        },
        {
            "caption": "A woman with a knife.",
            "image": "val2014/COCO_val2014_000000522418.jpg",
            "image_id": "coco_522418",
        },
    ]
    test = [{"image": "val2014/COCO_val2014_000000391895.jpg", "caption": ["A man on a moped.", "A man rides."]}]
    write(tmp_path / "annotations/coco_karpathy_train.json", train)
    write(tmp_path / "annotations/coco_karpathy_test.json", test)
    write(tmp_path / "annotations/coco_karpathy_test_gt.json", {"annotations": [], "images": []})  # for scoring
    images(tmp_path, "images/val2014/COCO_val2014_000000522418.jpg", "images/val2014/COCO_val2014_000000391895.jpg")
    data = read_captions(tmp_path)
    assert (data.format, data.problems, data.splits) == ("lavis", (), {"test": 1, "train": 1})
    assert captions_of(data.split("train")) == {
        "val2014/COCO_val2014_000000522418.jpg": ("A woman cuts a cake.", "A woman with a knife.")
    }
    assert all(image.path.exists() for image in data.images)
    assert read_captions(tmp_path / "annotations/coco_karpathy_test.json").images == data.split("test").images


def test_lists_of_two_data_sets_are_not_mixed(tmp_path: Path) -> None:
    for name in ("coco_karpathy_train", "flickr30k_train"):
        write(tmp_path / f"{name}.json", [{"image": "a.jpg", "caption": "x"}])
    with pytest.raises(AnnotationError, match=r"several data sets .*flickr30k_train\.json\); give one"):
        read_captions(tmp_path)


def test_a_list_of_another_name_is_in_no_split(tmp_path: Path) -> None:
    data = read_captions(write(tmp_path / "cc3m.json", [{"image": "/data/a.jpg", "caption": "x"}]))
    assert (data.format, data.splits) == ("jsonl", {"all": 1})


# -------------------------------------------------------------------------------------------------- text next to images


def test_text_next_to_images(tmp_path: Path) -> None:
    write(tmp_path / "10_dog/a.jpg", b"")
    write(tmp_path / "10_dog/a.txt", "a dog on grass\n\n a brown dog \r\n")
    write(tmp_path / "validation/b.PNG", b"")
    write(tmp_path / "validation/b.PNG.txt", "\ufeffein Hund läuft")
    write(tmp_path / ".thumbnails/c.jpg", b"")
    data = read_captions(tmp_path)
    assert (data.format, data.problems, data.notes) == ("txt", (), ())
    assert captions_of(data) == {
        "10_dog/a.jpg": ("a dog on grass", "a brown dog"),
        "validation/b.PNG": ("ein Hund läuft",),
    }
    assert data.splits == {"all": 1, "val": 1}


def test_images_without_text_and_text_without_images_are_reported(tmp_path: Path) -> None:
    for name, content in {
        "a.jpg": "",
        "a.txt": "x",
        "b.jpg": "",
        "c.jpg": "",
        "c.txt": " \n",
        "README.txt": "y",
    }.items():
        write(tmp_path / name, content)
    write(tmp_path / "d.jpg", "")
    write(tmp_path / "d.txt", b"\0\1\0\0")
    os.mkfifo(tmp_path / "b.txt")
    data = read_captions(tmp_path)
    assert list(captions_of(data)) == ["a.jpg"]
    problems = {Path(problem.place).name: problem.reason for problem in data.problems}
    assert list(problems) == ["b.txt", "d.txt", "b.jpg", "c.jpg", "d.jpg"]
    assert "is not text" in problems["d.txt"] and "no caption" in problems["b.jpg"]
    assert "is not a file" in problems["b.txt"]
    assert data.notes == (f"{tmp_path}: 1 .txt files have no image of their name, such as {tmp_path}/README.txt",)


def test_of_two_extensions_the_frequent_one_is_read_or_the_given_one(tmp_path: Path) -> None:
    for name, content in {
        "a.jpg": "",
        "a.caption": "a dog",
        "b.jpg": "",
        "b.caption": "a cat",
        "b.txt": "cat, fur",
    }.items():
        write(tmp_path / name, content)
    data = read_captions(tmp_path)
    assert captions_of(data) == {"a.jpg": ("a dog",), "b.jpg": ("a cat",)}
    assert "2 .caption files; 1 .txt files" in data.notes[0] and "--source-format .txt" in data.notes[0]
    assert captions_of(read_captions(tmp_path, format=".txt")) == {"b.jpg": ("cat, fur",)}
    write(tmp_path / "a.wd14", "dog")
    assert captions_of(read_captions(tmp_path, format=".wd14")) == {"a.jpg": ("dog",)}
    with pytest.raises(AnnotationError, match=r"no image has a text file of its name next to it, such as dog\.tags"):
        read_captions(tmp_path, format=".tags")


def test_images_without_text_are_kept_on_request(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.txt", "b.jpg"):
        write(tmp_path / name, "x")
    assert captions_of(read_captions(tmp_path, captionless=True)) == {"a.jpg": ("x",), "b.jpg": ()}


def test_text_may_be_in_a_folder_of_its_own(tmp_path: Path) -> None:
    for name in ("images/train/a.jpg", "images/b.jpg", "labels/train/a.txt", "labels/b.txt", "labels/c.txt"):
        write(tmp_path / name, name)
    data = read_captions(tmp_path / "labels", images=tmp_path / "images")
    assert {image.image_id: (image.path, image.captions, image.split) for image in data.images} == {
        "b.jpg": (tmp_path / "images/b.jpg", ("labels/b.txt",), "all"),
        "train/a.jpg": (tmp_path / "images/train/a.jpg", ("labels/train/a.txt",), "train"),
    }


def test_two_images_may_share_a_text(tmp_path: Path) -> None:
    for name in ("dog.jpg", "dog.png", "dog.TXT"):
        write(tmp_path / name, "a dog")
    data = read_captions(tmp_path)
    assert captions_of(data) == {"dog.jpg": ("a dog",), "dog.png": ("a dog",)}
    assert data.notes == ()


def test_a_table_in_the_folder_comes_before_text(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.txt"):
        write(tmp_path / name, "x")
    write(tmp_path / "captions.csv", "image,caption\na.jpg,of the table\n")
    assert captions_of(read_captions(tmp_path)) == {"a.jpg": ("of the table",)}


def test_of_two_metadata_files_one_is_read(tmp_path: Path) -> None:
    write(tmp_path / "metadata.jsonl", {"file_name": "a.jpg", "text": "x"})
    file = write(tmp_path / "metadata.csv", "file_name,text\nb.jpg,y\n")
    data = read_captions(tmp_path)
    assert captions_of(data) == {"a.jpg": ("x",)}
    assert "it also has metadata.csv (imagefolder)" in data.notes[0]
    assert captions_of(read_captions(file)) == {"b.jpg": ("y",)}


def test_the_choice_among_several_formats_is_noted(tmp_path: Path) -> None:
    write(tmp_path / "captions.jsonl", {"image": "a.jpg", "caption": "x"})
    write(tmp_path / "captions.csv", "image,caption\na.jpg,y\n")
    (note,) = read_captions(tmp_path).notes
    assert note == f"{tmp_path}: read as jsonl; it also has captions.csv (csv); to read that, give the file"
