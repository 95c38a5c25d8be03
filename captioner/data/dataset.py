"""The common form of caption data sets: photos, what people said about them, and the records that were skipped."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from unicodedata import category

from captioner.errors import AnnotationError

EMPTY_CAPTION = "the caption is empty"
"""The reason given for an empty caption."""

UNDIVIDED = "all"
"""The split of photos that have none."""

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
_AROUND = re.compile(rf"(?:split[.:_ -])?({'|'.join(_STEMS)})(?:[_ -]?(?:set|split|data))?[_ -]?(?:\d{{4}})?")
_OTHER = {"val": "dev", "dev": "val"}


@lru_cache(maxsize=1024)
def split_name(name: str) -> str:
    """Return the one name of a split that files write in several ways.

    "Training ", "train_set" and "train2014" are "train", "" is "all".
    """
    plain = "".join(letter for letter in name.casefold() if category(letter) != "Cf").strip()  # spaces without width
    stem = _AROUND.fullmatch(plain)
    return _NAMES.get(plain, _NAMES.get(stem[1], stem[1]) if stem else plain)


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and what people said about it.

    Attributes:
        image_id: stable and unique in the data set: COCO's id, or the file name, or the path as the file writes it.
        path: where the image should be; it may be missing.
        split: the part of the data set, as :func:`split_name` writes it: "train", "val", "test", "restval", "dev",
            "other", "all".
        captions: as written, without surrounding white space; at least one, unless photos without were requested.
    """

    image_id: str
    path: Path
    split: str
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SkippedRecord:
    """A record that was skipped: its place (``file:line`` or ``file:$.annotations[3]``) and what is wrong with it."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class CaptionData:
    """A caption data set.

    Attributes:
        name: the file's or folder's, or the one that the file gives itself.
        format: how it was read.
        photos: in the order of the file.
        problems: the records that could not be used.
        notes: what was guessed in reading it, in sentences.
    """

    name: str
    format: str
    photos: tuple[Photo, ...]
    problems: tuple[SkippedRecord, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, int]:
        """How many photos each split has, in the order of appearance."""
        return dict(Counter(photo.split for photo in self.photos))

    def complaint(self) -> str | None:
        """How many malformed records were left out and which was the first, in one line; None if there were none.

        Call it on the whole data set: its splits do not carry the problems.
        """
        if not self.problems:
            return None
        records = (
            "1 malformed record was" if len(self.problems) == 1 else f"{len(self.problems):,} malformed records were"
        )
        return f"{self.name}: {records} left out, the first: {self.problems[0]}; `captioner data inspect` lists them"

    def split(self, name: str, *, restval: bool = False) -> CaptionData:
        """Select the photos of one split; problems and notes stay with the whole data set.

        Args:
            name: the split, in any of the ways that :func:`split_name` reads. "val" and "dev" stand for each other if
                only one of them exists.
            restval: count COCO's "restval" photos as "train", as most papers do.

        Raises:
            AnnotationError: no photo is in that split.
        """
        splits = self.splits
        name = split_name(name)
        if name not in splits and _OTHER.get(name) in splits:
            name = _OTHER[name]
        wanted = {name, "restval"} if restval and name == "train" else {name}
        photos = tuple(photo for photo in self.photos if photo.split in wanted)
        if not photos:
            there = ", ".join(f"{split} ({count:,})" for split, count in splits.items()) or "none"
            raise AnnotationError(
                f'{self.name}: no photo is in the split "{name}"; the splits are: {there}; choose '
                "one of these, for training as data.train and data.dev"
            )
        return replace(self, photos=photos, problems=(), notes=())


def merge(*datas: CaptionData) -> CaptionData:
    """Join data sets into one; image ids that occur in several of them get their set's name and "/" as a prefix.

    Raises:
        AnnotationError: nothing was given.
    """
    if not datas:
        raise AnnotationError("nothing to merge: give at least one data set")
    uses = Counter(photo.image_id for data in datas for photo in data.photos)
    taken = {image_id for image_id, count in uses.items() if count == 1}
    names = [data.name for data in datas]
    photos: list[Photo] = []
    for index, data in enumerate(datas):
        earlier = names[:index].count(data.name)
        label = f"{data.name}-{earlier + 1}" if earlier else data.name
        for photo in data.photos:
            if uses[photo.image_id] > 1:
                unique = f"{label}/{photo.image_id}"
                while unique in taken:
                    unique = f"{label}/{unique}"
                taken.add(unique)
                photo = replace(photo, image_id=unique)
            photos.append(photo)
    formats = dict.fromkeys(data.format for data in datas)
    problems = tuple(problem for data in datas for problem in data.problems)
    notes = tuple(note for data in datas for note in data.notes)
    return CaptionData("+".join(dict.fromkeys(names)), "+".join(formats), tuple(photos), problems, notes)
