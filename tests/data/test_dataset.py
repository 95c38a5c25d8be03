"""Splits of caption data, and merged data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from captioner.data.dataset import CaptionData, CaptionedImage, SkippedRecord, merge, split_name
from captioner.errors import AnnotationError


def data_of(
    name: str, *images: tuple[str, str], format: str = "csv", problems: tuple[SkippedRecord, ...] = ()
) -> CaptionData:
    made = tuple(CaptionedImage(image_id, Path(name) / image_id, split, ("x",)) for image_id, split in images)
    return CaptionData(name, format, made, problems)


def test_the_error_for_an_unknown_split_lists_the_known_ones() -> None:
    data = data_of("set", ("a", "train"), ("b", "train"), ("c", "dev"))
    with pytest.raises(AnnotationError, match=r'"test"; the splits are: train \(2\), dev \(1\)'):
        data.split("test")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *(("Training ", "train"), ("train2014", "train"), ("training_set", "train"), ("Split.TRAIN", "train")),
        *(("Train\u200b", "train"), ("val2017", "val"), ("validation_split", "val"), ("Test Set", "test"), ("", "all")),
        # Separate parts of COCO and other data sets.
        *((name, name) for name in ("trainval", "minival", "test-dev", "0", "val_seen")),
    ],
)
def test_spellings_of_a_split_have_one_name(written: str, name: str) -> None:
    assert split_name(written) == name


def test_val_and_dev_are_synonyms_if_only_one_of_them_exists() -> None:
    assert [image.image_id for image in data_of("set", ("a", "val")).split("dev").images] == ["a"]
    both = data_of("set", ("a", "val"), ("b", "dev"))
    assert [image.image_id for image in both.split("dev").images] == ["b"]


def test_restval_alone_can_be_the_train_split() -> None:
    data = data_of("set", ("a", "restval"), ("b", "val"))
    assert [image.image_id for image in data.split("train", restval=True).images] == ["a"]
    with pytest.raises(AnnotationError):
        data.split("train")


def test_the_problem_summary_counts_the_skipped_records_and_names_the_first() -> None:
    assert data_of("set", ("a", "train")).problem_summary() is None
    one = data_of("set", ("a", "train"), problems=(SkippedRecord("f.csv:3", "the caption is empty"),))
    assert one.problem_summary() == (
        "set: 1 malformed record was left out, the first: f.csv:3: the caption is empty; "
        "`captioner data inspect` lists them"
    )
    many = data_of("set", ("a", "train"), problems=one.problems * 1234).problem_summary()
    assert many is not None and many.startswith("set: 1,234 malformed records were left out, the first: f.csv:3: ")


def test_merged_sets_have_unique_ids_and_keep_those_that_do_not_collide() -> None:
    one = data_of("one", ("1", "train"), ("2", "val"), problems=(SkippedRecord("f:1", "bad"),))
    two = data_of("two", ("2", "train"), ("3", "val"), format="coco")
    joined = merge(one, two)
    assert [image.image_id for image in joined.images] == ["1", "one/2", "two/2", "3"]
    assert [image.path for image in joined.images] == [image.path for data in (one, two) for image in data.images]
    assert (joined.name, joined.format, joined.problems) == ("one+two", "csv+coco", one.problems)
    assert joined.splits == {"train": 2, "val": 2}


def test_merging_a_set_with_itself_or_with_an_adversarial_one_gives_unique_ids() -> None:
    one = data_of("one", ("1", "train"), ("one/1", "train"))
    assert [image.data_set for image in merge(one, one).images] == ["one", "one", "one-2", "one-2"]
    ids = [image.image_id for image in merge(one, one, data_of("one-2", ("1", "val"), ("one-2/1", "val"))).images]
    assert len(set(ids)) == len(ids) == 6
    with pytest.raises(AnnotationError):
        merge()
