"""Data sets without splits are always divided in the same way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from captioner.data.dataset import CaptionData, CaptionedImage
from captioner.errors import AnnotationError
from captioner.text.vocabulary import Vocabulary
from captioner.training.data import Coverage, check_coverage, read_data
from captioner.training.recipe import load_config
from captioner.training.recipe_files import OWN_DATA


def table(folder: Path, rows: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "own.csv").write_text("\n".join(rows) + "\n")
    return folder / "own.csv"


def read(path: Path, *changes: str) -> tuple[set[str], set[str], list[str]]:
    said: list[str] = []
    train, dev = read_data(load_config(path, changes), said.append)
    return {image.image_id for image in train.images}, {image.image_id for image in dev.images}, said


def rows_of(count: int, split: str = "") -> list[str]:
    return [f"{number}.jpg,a photo,{split}" if split else f"{number}.jpg,a photo" for number in range(count)]


def test_images_without_splits_are_divided_by_their_names(tmp_path: Path) -> None:
    whole = table(tmp_path, ["image,caption", *rows_of(100)])
    train, dev, said = read(whole)
    assert len(train) == 85 and len(dev) == 15 and not train & dev
    assert said == [
        "own: has no split 'dev', so 15 of its 100 images select the best epoch; so few that it is mostly chance"
    ]
    assert read(whole) == (train, dev, said) and read(whole, "seed=5")[:2] == (train, dev)
    assert len(read(whole, "data.dev_share=0.5")[1]) == 50 and len(read(whole, "data.dev_share=0.999")[0]) == 1
    more = read(table(tmp_path / "more", ["image,caption", *rows_of(101)]))
    assert len(dev - more[1]) <= 1  # the others keep theirs


def test_a_split_that_exists_is_taken(tmp_path: Path) -> None:
    rows = ["image,caption,split", *rows_of(40, "train"), "a.jpg,a photo,val", "b.jpg,a photo,test"]
    assert read(table(tmp_path, rows)) == ({f"{n}.jpg" for n in range(40)}, {"a.jpg"}, [])
    train, dev, said = read(table(tmp_path, [*rows[:-2], rows[-1]]))
    assert len(train) == 34 and len(dev) == 6 and "b.jpg" not in train | dev and len(said) == 1


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (["image,caption", "1.jpg,a photo"], (), "one image cannot both be trained on"),
        (["image,caption", *rows_of(9)], ("data.dev=evening",), 'no image is in the split "evening"'),
        (["image,caption,split", *rows_of(9, "other")], (), 'no image is in the split "train"'),
        (["image,caption", *rows_of(9)], ("data.train=morning",), 'no image is in the split "morning"'),
    ],
)
def test_indivisible_data_are_an_error(tmp_path: Path, rows: list[str], changes: Any, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read(table(tmp_path, rows), *changes)


def test_splits_are_known_by_any_of_their_names_and_unused_images_are_counted(tmp_path: Path) -> None:
    rows = ["image,caption,split", *rows_of(40, "Training"), "a.jpg,a photo,Validation", "b.jpg,a photo,TEST "]
    rows += [*(f"x{row}" for row in rows_of(3, "Extra")), "c.jpg,a photo,"]
    train, dev, said = read(table(tmp_path, rows))
    assert len(train) == 40 and dev == {"a.jpg"}
    used = "are not used; data.train and data.dev name the splits that are"
    assert said == [f"own: 3 images in the split 'extra' {used}", f"own: 1 images without a split {used}"]
    assert len(read(table(tmp_path, rows), "data.train=EXTRA")[0]) == 3


@pytest.mark.parametrize("blank", ["", " ", "all"])
def test_images_without_a_split_are_trained_on_if_no_other_are(tmp_path: Path, blank: str) -> None:
    rows = ["image,caption,split", *(f"{n}.jpg,a photo,{blank}" for n in range(40))]
    train, dev, said = read(table(tmp_path, rows))
    assert len(train) == 34 and len(dev) == 6 and "has no split 'dev'" in said[0]
    train, dev, said = read(table(tmp_path, [*rows, "a.jpg,a photo,valid"]))
    assert len(train) == 40 and dev == {"a.jpg"} and not said


def test_another_data_set_without_splits_is_trained_on(tmp_path: Path) -> None:
    own = table(tmp_path, ["image,caption,split", *rows_of(4, "train"), "a.jpg,a photo,val"])
    other = table(tmp_path / "other", ["image,caption", "x.jpg,a photo"])
    assert "x.jpg" in read(own, f"data.also=[{other}]")[0]


def test_assumptions_in_reading_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_bytes("image;caption\r\na.jpg;ein Kätzchen\r\nb.jpg;ein Hund\r\n".encode("cp1252"))
    assert "read as Windows-1252, with words such as 'Kätzchen'" in read(file)[2][0]


SPACELESS = [  # a script without spaces that the tokenizer does not part: Tibetan's first letters, as one word
    "ཁྱི་དཀར་པོ་ཞིག་རྩྭ་ཐང་ནས་རྒྱུགས" + str(number) for number in range(30)
]


def covered(captions: list[str], *changes: str, dev: int = 0) -> tuple[Coverage | None, list[str]]:
    config = load_config(OWN_DATA, ["start=null", *changes])
    images = tuple(CaptionedImage(str(n), Path(f"{n}.jpg"), "train", (caption,)) for n, caption in enumerate(captions))
    vocabulary = Vocabulary.build(captions, min_count=config.data.min_count)
    said: list[str] = []
    train, held = (CaptionData("own", "csv", each) for each in (images, images[:dev]))
    return check_coverage(train, held, vocabulary, config, said.append), said


@pytest.mark.parametrize(
    ("captions", "changes", "advice"),
    [
        (SPACELESS, (), "0 words has 0% .* put spaces between the words"),
        (["a dog runs", "two birds fly"], (), "lower data.min_count"),
        ([f"ein Haus Wort{n} Laut{n}" for n in range(9)], ("data.min_count=10",), "which is 10"),
        (["ein Hund"] * 9, ("start=show_attend_tell", "new_words=false", "data.min_count=99"), "set new_words=true"),
        (["🐶", "🐱"], (), "lower data.min_count"),
    ],
)
def test_captions_of_words_that_a_model_cannot_write_are_refused(
    captions: list[str], changes: Any, advice: str
) -> None:
    with pytest.raises(AnnotationError, match=advice):
        covered(captions, *changes)


@pytest.mark.parametrize(
    ("captions", "known"),
    [
        (["a dog runs", "a cat runs", "a dog rests", "a dog"], 7 / 11),  # a four times, dog three times
        (["一只狗", "一只猫", "一只鸟"], 6 / 9),
        (["Dog", "dog", "DOG", "cat"], 3 / 4),
        (["🐶", "🐶", "🐶"], 1),
    ],
)
def test_the_share_of_known_words_is_measured(captions: list[str], known: float) -> None:
    coverage, _ = covered(captions)
    assert coverage is not None and coverage.known == pytest.approx(known)


def test_dev_captions_of_other_words_are_a_warning() -> None:
    _, (said,) = covered(["zwei Hunde", *["a dog runs"] * 5], dev=1)
    assert re.search(r"has 0% of the words in the dev captions.*lower data\.min_count", said)


def test_a_start_without_many_of_the_words_is_reported() -> None:
    captions = ["ein Hund rennt"] * 5 + ["a Hund rennt"] * 5
    config = load_config(OWN_DATA)
    images = tuple(CaptionedImage(str(n), Path(f"{n}.jpg"), "train", (caption,)) for n, caption in enumerate(captions))
    data, words, said = CaptionData("own", "csv", images), Vocabulary(["a", "ein", "hund", "rennt"]), list[str]()
    check_coverage(data, data, words, config, said.append, new=3)
    assert len(said) == 1 and "vocabulary of show_attend_tell has 17% of the words" in said[0]
    check_coverage(data, data, words, config, said.append, new=1)
    assert len(said) == 1


def test_unsuitable_captions_are_reported() -> None:
    assert covered(["a dog runs"] * 5)[1] == [
        "own: all captions are 'a dog runs', so the model will write that for every image"
    ]
    long = [f"{'a dog runs ' * 9}{number}" for number in range(5)]
    assert "100% of the captions have more than 24 words and are cut there" in covered(long)[1][0]
    assert covered([])[0] is None


def test_other_data_sets_train_and_select_too(tmp_path: Path) -> None:
    own = table(tmp_path / "own", ["image,caption,split", *rows_of(3, "train"), "d.jpg,a photo,dev"])
    other = tmp_path / "dataset_other.json"
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": "a photo"}]}
        for name, split in (("1.jpg", "train"), ("r.jpg", "restval"), ("v.jpg", "val"), ("d.jpg", "train"))
    ]
    other.write_text(json.dumps({"dataset": "other", "images": images}))
    data = load_config(own, [f"data.also=[{other}]"])
    train, dev = read_data(data, [].append)
    assert train.name == dev.name == "own+other"
    assert {image.image_id for image in train.images} == {
        "0.jpg", "own/1.jpg", "2.jpg", "other/1.jpg", "r.jpg", "other/d.jpg"
    }  # fmt: skip
    assert [(image.image_id, image.data_set) for image in dev.images] == [("own/d.jpg", "own"), ("v.jpg", "other")]


def test_excluded_images_are_not_trained_on(tmp_path: Path) -> None:
    own = table(tmp_path, ["image,caption,split", *rows_of(3, "train"), "d.jpg,a photo,dev"])
    listed = tmp_path / "test.txt"
    listed.write_text("# a comment\n1.jpg  # another\n\nd.jpg\n9.jpg\n")
    train, dev, said = read(own, f"data.exclude={listed}")
    assert train == {"0.jpg", "2.jpg"} and dev == {"d.jpg"}
    assert len(said) == 1 and "2 of its 3 ids, such as 'd.jpg', are not those of training images" in said[0]
    for content, message in (
        ("9.jpg\n", "none of its 1 ids is that of a training image; list ids such as '0.jpg'"),
        ("0.jpg\n1.jpg\n2.jpg\n", "lists all training images"),
    ):
        listed.write_text(content)
        with pytest.raises(AnnotationError, match=message):
            read(own, f"data.exclude={listed}")
    with pytest.raises(AnnotationError, match=r"data.exclude: .*none.txt: not readable"):
        read(own, f"data.exclude={tmp_path / 'none.txt'}")


def test_training_images_that_are_in_dev_are_reported(tmp_path: Path) -> None:
    own = table(tmp_path, ["image,caption,split", *rows_of(3, "train"), "d.jpg,a photo,dev"])
    assert read(own)[2] == []
    train, dev, said = read(own, "data.dev=train")
    assert (
        train == dev and len(train) == 3 and "3 training images, such as" in said[-1] and "are in dev too" in said[-1]
    )
    for name in ("0.jpg", "d.jpg"):
        (tmp_path / name).touch()
    other = table(tmp_path / "other", ["image,caption", "a.jpg,a photo", "d.jpg,a photo"])
    (tmp_path / "other" / "d.jpg").symlink_to(tmp_path / "d.jpg")
    assert (
        f"1 training images, such as {tmp_path / 'other' / 'd.jpg'}, are in dev too"
        in read(own, f"data.also=[{other}]")[2][0]
    )


def test_captions_without_a_word_are_left_out(tmp_path: Path) -> None:
    rows = [
        "a.jpg,...,train",
        "b.jpg,?!,train",
        "b.jpg,a photo,train",
        "c.jpg,一只狗,train",
        "d.jpg,...,dev",
        "d.jpg,x,dev",
    ]
    own = table(tmp_path, ["image,caption,split", *rows])
    said: list[str] = []
    train, dev = read_data(load_config(own), said.append)
    assert [image.captions for image in train.images] == [("a photo",), ("一只狗",)]
    assert [image.captions for image in dev.images] == [("...", "x")], "scores are those of the field's programs"
    assert said == ["own: 2 captions without a word, such as '...', are left out"]
    with pytest.raises(AnnotationError, match=r"no training caption has a word, the first: '\.\.\.'"):
        read(table(tmp_path, ["image,caption,split", rows[0], rows[4]]))
