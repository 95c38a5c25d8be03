"""The inspection of a caption data set: counts, vocabulary, files, leaks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captioner.data.annotations import read_captions
from captioner.data.dataset import CaptionData, CaptionedImage, SkippedRecord
from captioner.data.inspect import CountSummary, DataReport, Listing, inspect_captions
from captioner.data.packed import packed_name
from tests.data.images import encode
from tests.data.test_packed import tar_of


def jpeg(colour: int) -> bytes:
    return encode(Image.new("RGB", (8, 8), (colour, 0, 0)), "PNG", compress_level=0)  # uncompressed: of equal size


@pytest.fixture
def data(tmp_path: Path) -> CaptionData:
    """Six images; b is a copy of a in train, e a copy in val; d is missing; f is restval."""
    contents = {"a": jpeg(1), "b": jpeg(1), "c": jpeg(2), "e": jpeg(1), "f": jpeg(3)}
    for name, content in contents.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    captions = {
        "a": ("train", ("the dog runs", "the dog runs fast")),
        "b": ("train", ("the dog",)),
        "c": ("train", ("the cat", "a bird", "The Cat")),
        "d": ("val", ("the fox runs", "...")),
        "e": ("val", ("a dog",)),
        "f": ("restval", ("the bird",)),
    }
    images = tuple(
        CaptionedImage(name, tmp_path / f"{name}.jpg", split, texts) for name, (split, texts) in captions.items()
    )
    return CaptionData(
        "set", "csv", images, (SkippedRecord("set.csv:9", "the caption is empty"), SkippedRecord("set.csv:12", "bad"))
    )


def words(caption: str) -> list[str]:
    return caption.lower().replace(".", "").split()


def inspect(data: CaptionData, **options: Any) -> DataReport:
    return inspect_captions(data, tokenize=words, **{"min_count": 2, **options})


def test_images_inside_files_are_compared_and_checked(tmp_path: Path) -> None:
    members = {"a.png": jpeg(1), "b.png": jpeg(2), "c.png": jpeg(1), "d.png": b"damaged"}
    file = tar_of(tmp_path / "p.tar", members)
    images = [
        CaptionedImage(name, packed_name(file, name), split, ("x",))
        for name, split in zip(members, "aabb", strict=True)
    ]
    gone = CaptionedImage("gone", packed_name(file, "gone.png"), "a", ("x",))
    report = inspect(CaptionData("set", "csv", (*images, gone)), check_images=True)
    assert report.missing == Listing(1, (f"{file}:gone.png",))
    assert [group.image_ids for group in report.leaks or ()] == [("a.png", "c.png")]
    assert report.unreadable is not None and report.unreadable.count == 1
    assert report.unreadable.first[0].startswith(f"{file}:d.png: ")


def test_splits_are_counted(data: CaptionData) -> None:
    splits = inspect(data).to_dict()["splits"]
    assert list(splits) == ["train", "val", "restval"]
    train = splits["train"]
    assert (train["photos"], train["captions"]) == (3, 6)
    assert train["captions_per_photo"] == {"min": 1, "median": 2.0, "mean": 2.0, "p95": 3, "max": 3}
    assert train["words_per_caption"] == {"min": 2, "median": 2.0, "mean": 2.5, "p95": 4, "max": 4}
    assert splits["val"]["words_per_caption"]["min"] == 0


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200))
def test_spreads_agree_with_numpy(counts: list[int]) -> None:
    spread = CountSummary.of(counts)
    assert (spread.min, spread.max) == (min(counts), max(counts))
    assert spread.mean == pytest.approx(np.mean(counts))
    assert spread.median == np.median(counts)
    # At most one count in twenty is larger, and no smaller count has that property.
    assert np.mean(np.array(counts) > spread.p95) <= 0.05 + 1e-12
    assert np.mean(np.array(counts) > spread.p95 - 1) > 0.05 - 1e-12


def test_the_vocabulary_comes_from_train_and_restval_only(data: CaptionData) -> None:
    vocabulary = inspect(data).vocabulary
    # the 6, dog 3, runs 2, cat 2, bird 2 are kept; fast and a occur once; fox is in val.
    assert (vocabulary.splits, vocabulary.words, vocabulary.kept) == (("train", "restval"), 7, 5)
    assert vocabulary.coverage["val"] == pytest.approx(3 / 5)  # the, runs, dog of: the fox runs a dog
    assert inspect(data, min_count=1).vocabulary.coverage == {"train": 1, "restval": 1, "val": pytest.approx(4 / 5)}


def test_without_a_train_split_the_vocabulary_comes_from_every_split(data: CaptionData) -> None:
    everything = replace(data, images=tuple(replace(image, split="all") for image in data.images))
    vocabulary = inspect(everything, min_count=1).vocabulary
    assert (vocabulary.splits, vocabulary.words, vocabulary.coverage) == (("all",), 8, {"all": 1})


def test_missing_twin_and_leaked_files_are_found(data: CaptionData, tmp_path: Path) -> None:
    report = inspect(data)
    assert report.missing is not None
    assert (report.missing.count, report.missing.first) == (1, (str(tmp_path / "d.jpg"),))
    assert report.duplicates is not None
    assert [(group.image_ids, group.splits) for group in report.duplicates] == [(("a", "b", "e"), ("train", "val"))]
    assert report.leaks == report.duplicates


@pytest.mark.parametrize(
    ("splits", "leaks"), [(("train", "restval"), 0), (("train", "train"), 0), (("val", "test"), 1)]
)
def test_only_twins_in_different_splits_leak(tmp_path: Path, splits: tuple[str, str], leaks: int) -> None:
    images = []
    for name, split in zip("ab", splits, strict=True):
        (tmp_path / name).write_bytes(jpeg(1))
        images.append(CaptionedImage(name, tmp_path / name, split, ("x",)))
    report = inspect(CaptionData("set", "csv", tuple(images)))
    assert report.duplicates is not None and report.leaks is not None
    assert (len(report.duplicates), len(report.leaks)) == (1, leaks)


def test_one_file_under_two_ids_is_a_twin_without_being_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(jpeg(1))
    images = tuple(CaptionedImage(name, tmp_path / "a", name, ("x",)) for name in ("train", "val"))
    report = inspect(CaptionData("set", "csv", images))
    assert report.leaks is not None
    assert [group.image_ids for group in report.leaks] == [("train", "val")]


def test_files_of_one_size_are_not_twins_unless_their_bytes_agree(tmp_path: Path) -> None:
    images = []
    for number in range(4):
        (tmp_path / str(number)).write_bytes(jpeg(number))
        images.append(CaptionedImage(str(number), tmp_path / str(number), "train", ("x",)))
    assert len({image.path.stat().st_size for image in images}) == 1
    assert inspect(CaptionData("set", "csv", tuple(images))).duplicates == ()


def test_a_folder_in_place_of_an_image_is_a_missing_image(tmp_path: Path) -> None:
    report = inspect(CaptionData("set", "csv", (CaptionedImage("a", tmp_path, "train", ("x",)),)))
    assert report.missing is not None
    assert report.missing.count == 1


def test_unreadable_images_are_named_with_the_reason(data: CaptionData, tmp_path: Path) -> None:
    (tmp_path / "c.jpg").write_bytes(b"this is no image")
    report = inspect(data, check_files=False, check_images=True)
    assert report.unreadable is not None
    assert report.unreadable.count == 1
    assert report.unreadable.first[0].startswith(f"{tmp_path / 'c.jpg'}: ")
    assert report.missing is not None and report.missing.count == 1
    assert (report.duplicates, report.leaks) == (None, None)
    assert inspect(data, check_files=True).unreadable is None


def test_empty_files_do_not_stop_the_search_for_twins(data: CaptionData, tmp_path: Path) -> None:
    for name in ("c", "f"):
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    report = inspect(data)
    assert report.unreadable is not None and report.unreadable.count == 2
    assert report.duplicates is not None and len(report.duplicates) == 1


def test_no_file_is_opened_without_checks(data: CaptionData) -> None:
    report = inspect(data, check_files=False)
    assert (report.missing, report.duplicates, report.leaks, report.unreadable) == (None, None, None, None)


def test_repeated_and_empty_captions_and_problems_are_counted(data: CaptionData) -> None:
    report = inspect(data)
    assert (report.repeated_captions.count, report.repeated_captions.first) == (1, ("c",))  # "the cat", "The Cat"
    assert report.empty_captions == 2  # "..." of d, and one that the reader skipped
    assert (report.problems.count, report.problems.first[1]) == (2, "set.csv:12: bad")


def test_long_lists_are_cut_but_counted(data: CaptionData) -> None:
    problems = tuple(SkippedRecord(f"set.csv:{line}", "bad") for line in range(2, 52))
    images = tuple(replace(data.images[3], image_id=str(n), path=Path(f"/nowhere/{n}.jpg")) for n in range(25))
    report = inspect(replace(data, images=images, problems=problems))
    assert report.missing is not None
    assert (report.missing.count, len(report.missing.first)) == (25, 10)
    assert (report.problems.count, len(report.problems.first)) == (50, 20)


def test_progress_runs_to_the_end_over_the_files_that_are_read(data: CaptionData) -> None:
    calls: list[tuple[int, int]] = []
    inspect_captions(data, tokenize=words, check_images=True, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 5) for done in range(1, 6)]


def test_the_report_is_json(data: CaptionData) -> None:
    report = inspect(data, check_images=True)
    assert json.loads(json.dumps(report.to_dict()))["vocabulary"]["coverage"]["val"] == pytest.approx(0.6)


def test_a_set_without_images_can_be_inspected() -> None:
    report = inspect(CaptionData("set", "csv", ()))
    assert report.splits == {}
    assert (report.vocabulary.splits, report.vocabulary.words) == ((), 0)


def test_the_real_flickr8k_has_one_pair_of_twins_in_train(shared_data: Path) -> None:
    report = inspect(read_captions(shared_data / "flickr8k"), min_count=5)
    assert {split: (summary.photos, summary.captions) for split, summary in report.splits.items()} == {
        "train": (6000, 30000),
        "dev": (1000, 5000),
    }
    assert report.missing is not None and report.missing.count == 0
    assert report.duplicates is not None
    assert [(len(group.image_ids), group.splits) for group in report.duplicates] == [(2, ("train",))]
    assert report.leaks == ()
    assert 0.9 < report.vocabulary.coverage["dev"] < 1


def test_a_spread_is_that_of_a_sorted_list() -> None:
    assert CountSummary.of([]) == CountSummary(0, 0.0, 0.0, 0, 0)
    for size in (1, 2, 19, 20, 21, 40, 100):
        counts = [7 * number % size + 1 for number in range(size)]
        spread = CountSummary.of(counts)
        at_most = [count for count in sorted(counts) if sum(other <= count for other in counts) >= 0.95 * size]
        assert spread.p95 == at_most[0]  # the least count that 95 % do not exceed
        middle = sorted(counts)[(size - 1) // 2 : size // 2 + 1]
        assert (spread.min, spread.max) == (min(counts), max(counts))
        assert spread.median == sum(middle) / len(middle) and spread.mean == pytest.approx(sum(counts) / size)


def test_the_first_of_many_are_listed(tmp_path: Path) -> None:
    assert Listing.of(range(10)) == Listing(10, tuple(map(str, range(10))))
    assert Listing.of(range(11)) == Listing(11, tuple(map(str, range(10))))
    images = tuple(CaptionedImage(str(n), tmp_path / f"{n}.jpg", "train", ("a dog", "A dog")) for n in range(12))
    problems = tuple(SkippedRecord(f"f:{n}", "bad") for n in range(25))
    report = inspect_captions(CaptionData("set", "csv", images, problems), tokenize=lambda text: text.lower().split())
    assert report.missing is not None and (report.missing.count, len(report.missing.first)) == (12, 10)
    assert (report.repeated_captions.count, len(report.repeated_captions.first)) == (12, 10)
    assert (report.problems.count, len(report.problems.first)) == (25, 20)


def test_words_are_kept_that_occur_often_enough_in_the_train_split(tmp_path: Path) -> None:
    said = {"train": ["a a a b b c"], "restval": ["a a b b b"], "val": ["a b c d", "", "d d"], "test": [""]}
    images = tuple(CaptionedImage(split, tmp_path / split, split, tuple(texts)) for split, texts in said.items())
    report = inspect_captions(CaptionData("set", "csv", images), tokenize=str.split, check_files=False)
    words = report.vocabulary
    assert (words.splits, words.min_count, words.words, words.kept) == (("train", "restval"), 5, 3, 2)
    assert words.coverage == {"train": 5 / 6, "restval": 1.0, "val": 2 / 6, "test": 0.0}
    assert report.empty_captions == 2 and report.missing is report.duplicates is report.unreadable is None
    alone = inspect_captions(CaptionData("set", "csv", images[2:]), tokenize=str.split, min_count=3, check_files=False)
    assert alone.vocabulary.splits == ("val", "test") and alone.vocabulary.kept == 1


def test_files_of_equal_size_are_read_and_counted(tmp_path: Path) -> None:
    for name, content in (("a", b"11"), ("b", b"22"), ("c", b"11"), ("d", b"333")):
        (tmp_path / name).write_bytes(content)
    images = tuple(CaptionedImage(name, tmp_path / name, "val" if name == "c" else "train", ("x",)) for name in "abcd")
    read: list[tuple[int, int]] = []
    report = inspect_captions(
        CaptionData("set", "csv", images), tokenize=str.split, progress=lambda done, total: read.append((done, total))
    )
    assert read == [(1, 3), (2, 3), (3, 3)]
    assert report.duplicates is not None and [group.image_ids for group in report.duplicates] == [("a", "c")]
    assert report.leaks == report.duplicates and report.unreadable is None
    one_split = tuple(
        CaptionedImage(image.image_id, image.path, "restval" if image.split == "val" else "train", ("x",))
        for image in images
    )
    again = inspect_captions(CaptionData("set", "csv", one_split), tokenize=str.split)
    assert again.leaks == () and again.duplicates is not None and len(again.duplicates) == 1
