"""The common form of caption data sets: images, their captions, and skipped records."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from unicodedata import category

from captioner.errors import AnnotationError

EMPTY_CAPTION = "the caption is empty"
"""The reason to skip an empty caption."""

UNDIVIDED = "all"
"""The split of images without one."""

FOLDER_SPLITS = frozenset({"train", "restval", "val", "dev", "test"})
"""The splits that folders are recognised as."""

_NAMES = {
    "": UNDIVIDED,
    "training": "train",
    "trn": "train",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "development": "dev",
    "devel": "dev",
    "testing": "test",
    "tst": "test",
}
_STEMS = ("train", "restval", "val", "dev", "test", *filter(None, _NAMES))
_SPLIT = re.compile(rf"(?:split[.:_ -])?({'|'.join(_STEMS)})(?:[_ -]?(?:set|split|data))?[_ -]?(?:\d{{4}})?")


@lru_cache(maxsize=1024)
def split_name(name: str) -> str:
    """Return the standard name of a split: "Training ", "train_set" and "train2014" are "train", "" is "all"."""
    plain = "".join(letter for letter in name.casefold() if category(letter) != "Cf").strip()  # spaces without width
    stem = _SPLIT.fullmatch(plain)
    return _NAMES.get(plain, _NAMES.get(stem[1], stem[1]) if stem else plain)


def split_in_path(path: str) -> str:
    """Return the split that a folder in a relative path is named after: "val" for ``validation/dog.jpg``; else ""."""
    return next((split for split in map(split_name, path.split("/")[:-1]) if split in FOLDER_SPLITS), "")


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image and its captions.

    Attributes:
        image_id: stable and unique in the data set: COCO's id, the file name, or the path in the caption file.
        path: the file of the image, which may be missing, or the name of an image inside a tar or Parquet file, by
            :func:`~captioner.data.packed.packed_name`.
        split: the part of the data set, by :func:`split_name`: "train", "val", "test", "restval", "dev", "other",
            "all".
        captions: without surrounding white space; at least one, unless images without captions were requested.
        data_set: the name of its data set, numbered if another has it, in the result of :func:`merge`.
    """

    image_id: str
    path: Path
    split: str
    captions: tuple[str, ...]
    data_set: str = ""


@dataclass(frozen=True, slots=True)
class SkippedRecord:
    """A malformed record: its place (``file:line`` or ``file:$.annotations[3]``) and the reason to skip it."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class CaptionData:
    """A caption data set.

    Attributes:
        name: that of the file or folder, or the title in the file.
        format: its format.
        images: in the order of the file.
        problems: the skipped records.
        notes: the assumptions made in reading it, as sentences.
    """

    name: str
    format: str
    images: tuple[CaptionedImage, ...]
    problems: tuple[SkippedRecord, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, int]:
        """The number of images in each split, in the order of appearance."""
        return dict(Counter(image.split for image in self.images))

    def problem_summary(self) -> str | None:
        """Return a line with the number of malformed records and the first of them; None if there are none.

        Only the whole data set has them, not its splits.
        """
        if not self.problems:
            return None
        records = (
            "1 malformed record was" if len(self.problems) == 1 else f"{len(self.problems):,} malformed records were"
        )
        return f"{self.name}: {records} left out, the first: {self.problems[0]}; `captioner data inspect` lists them"

    def split(self, name: str, *, restval: bool = False) -> CaptionData:
        """Return one split, without problems and notes.

        Args:
            name: the split, in any spelling of :func:`split_name`. "val" and "dev" are the same if only one exists.
            restval: count COCO's "restval" images as "train", as most papers do.

        Raises:
            AnnotationError: no image is in that split.
        """
        splits = self.splits
        name = split_name(name)
        synonym = {"val": "dev", "dev": "val"}.get(name, name)
        name = synonym if name not in splits and synonym in splits else name
        wanted = {name, "restval"} if restval and name == "train" else {name}
        images = tuple(image for image in self.images if image.split in wanted)
        if not images:
            there = ", ".join(f"{split} ({count:,})" for split, count in splits.items()) or "none"
            raise AnnotationError(
                f'{self.name}: no image is in the split "{name}"; the splits are: {there}; choose '
                "one of these, for training as data.train and data.dev"
            )
        return replace(self, images=images, problems=(), notes=())


def merge(*datas: CaptionData) -> CaptionData:
    """Join data sets into one; image ids that occur in several are prefixed with the set's name and "/".

    Raises:
        AnnotationError: there are none.
    """
    if not datas:
        raise AnnotationError("nothing to merge: give at least one data set")
    uses = Counter(image.image_id for data in datas for image in data.images)
    taken = {image_id for image_id, count in uses.items() if count == 1}
    names = [data.name for data in datas]
    images: list[CaptionedImage] = []
    for index, data in enumerate(datas):
        earlier = names[:index].count(data.name)
        label = f"{data.name}-{earlier + 1}" if earlier else data.name
        for image in data.images:
            if uses[image.image_id] > 1:
                unique = f"{label}/{image.image_id}"
                while unique in taken:
                    unique = f"{label}/{unique}"
                taken.add(unique)
                image = replace(image, image_id=unique)
            images.append(replace(image, data_set=label))
    formats = dict.fromkeys(data.format for data in datas)
    problems = tuple(problem for data in datas for problem in data.problems)
    notes = tuple(note for data in datas for note in data.notes)
    return CaptionData("+".join(dict.fromkeys(names)), "+".join(formats), tuple(images), problems, notes)
