"""The captions that a captioner is trained on and evaluated with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from captioner.data.annotations import CaptionData, merge, read_captions
from captioner.data.dataset import Photo
from captioner.data.find import find_images
from captioner.errors import AnnotationError
from captioner.features import FeatureStore
from captioner.training.recipe import DataConfig, TrainConfig

UNDIVIDED = "all"
"""The split of the photos of a data set without splits."""


def read_data(config: TrainConfig, warn: Callable[[str], object]) -> tuple[CaptionData, CaptionData]:
    """Read the training and the dev data; ``warn`` is called with a summary of the malformed records of each file.

    Photos for a teacher to caption are among the training photos, without captions.

    Raises:
        AnnotationError: the data cannot be used.
    """
    settings = config.data
    data = read_captions(settings.path, images=settings.images, strict=settings.strict)
    others = [read_captions(path, strict=settings.strict) for path in settings.also]
    for read in (data, *others):
        if complaint := read.complaint():
            warn(f"{complaint}, data.strict=true refuses them")
    train, dev = _splits(data, settings, warn)
    if others:
        train = merge(train, *(other.split("train", restval=True) for other in others))
    if settings.teacher.unlabelled:
        known = (photo for read in (data, *others) for photo in read.photos)
        train = _with_unlabelled(train, known, settings.teacher.unlabelled, warn)
    return train, dev


def _with_unlabelled(
    train: CaptionData, known: Iterable[Photo], folders: Sequence[Path], warn: Callable[[str], object]
) -> CaptionData:
    """Add the pictures in folders and their subfolders, but those that the data know already, in whatever split.

    Raises:
        AnnotationError: there is no such folder, or it adds nothing.
    """
    taken = {os.path.realpath(photo.path) for photo in known}
    photos = []
    for folder in folders:
        if not folder.is_dir():
            raise AnnotationError(f"data.teacher.unlabelled: {folder}: there is no such folder; give one with photos")
        found = list(dict.fromkeys(os.path.realpath(path) for path in find_images([folder], recursive=True)))
        new = [path for path in found if path not in taken]
        if not new:
            what = f"all of its {len(found):,} pictures are in the data already" if found else "has no pictures"
            raise AnnotationError(f"data.teacher.unlabelled: {folder}: {what}; leave it out")
        if len(new) < len(found):
            warn(f"{folder}: {len(found) - len(new):,} of its {len(found):,} pictures are in the data and left out")
        taken.update(new)
        photos += [Photo(path, Path(path), "train", ()) for path in new]
    name = "+".join(dict.fromkeys([train.name, *(folder.resolve().name for folder in folders)]))
    return replace(train, name=name, photos=(*train.photos, *photos))


def _splits(data: CaptionData, settings: DataConfig, warn: Callable[[str], object]) -> tuple[CaptionData, CaptionData]:
    """Return the splits to train on and to select with; what a data set does not have is divided, always alike."""
    everything = set(data.splits) == {UNDIVIDED} and settings.train == "train"
    train = data if everything else data.split(settings.train, restval=settings.restval)
    if settings.dev != "dev" or {"dev", "val"} & set(data.splits):
        return train, data.split(settings.dev)
    if len(train.photos) < 2:
        raise AnnotationError(f"{data.name}: one photo cannot both be trained on and select the best epoch; add photos")
    # By their names' hashes, so that a photo that is added moves no other.
    mixed = sorted(train.photos, key=lambda photo: hashlib.sha256(photo.image_id.encode()).digest())
    few = max(1, round(settings.dev_share * len(mixed)))
    warn(
        f"{data.name}: has no split {settings.dev!r}, so {few} of its {len(mixed)} photos select the best epoch"
        + ("; so few that it is mostly chance" if few < 20 else "")
    )
    chosen = {photo.image_id for photo in mixed[:few]}
    kept, held = (
        tuple(photo for photo in train.photos if (photo.image_id in chosen) is wanted) for wanted in (False, True)
    )
    return replace(train, photos=kept), replace(train, photos=held)


def with_features(data: CaptionData, store: FeatureStore, warn: Callable[[str], object]) -> CaptionData:
    """Leave out photos that have no features; ``warn`` is called with how many there are.

    Raises:
        AnnotationError: no photo has features.
    """
    photos = tuple(photo for photo in data.photos if photo.image_id in store)
    if len(photos) < len(data.photos):
        warn(f"{data.name}: {len(data.photos) - len(photos)} photos have no features and are left out")
    if not photos:
        raise AnnotationError(f"{data.name}: none of its photos is in the feature store {store.folder}")
    return CaptionData(data.name, data.format, photos)
