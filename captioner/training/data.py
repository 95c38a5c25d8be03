"""The captions that a captioner is trained on and evaluated with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from captioner.data.annotations import CaptionData, merge, read_captions
from captioner.errors import AnnotationError
from captioner.features import FeatureStore
from captioner.training.recipe import DataConfig, TrainConfig

UNDIVIDED = "all"
"""The split of the photos of a data set without splits."""


def read_data(config: TrainConfig, warn: Callable[[str], object]) -> tuple[CaptionData, CaptionData]:
    """Read the training and the dev data; ``warn`` is called with a summary of the malformed records of each file."""
    settings = config.data
    data = read_captions(settings.path, images=settings.images, strict=settings.strict)
    others = [read_captions(path, strict=settings.strict) for path in settings.also]
    for read in (data, *others):
        if complaint := read.complaint():
            warn(f"{complaint}, data.strict=true refuses them")
    train, dev = _splits(data, settings, warn)
    return merge(train, *(other.split("train", restval=True) for other in others)) if others else train, dev


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
