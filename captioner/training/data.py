"""The captions that a captioner is trained on and evaluated with."""

from __future__ import annotations

from collections.abc import Callable

from captioner.data.annotations import CaptionData, merge, read_captions
from captioner.errors import AnnotationError
from captioner.features import FeatureStore
from captioner.training.recipe import TrainConfig


def read_data(config: TrainConfig, warn: Callable[[str], object]) -> tuple[CaptionData, CaptionData]:
    """Read the training and the dev data; ``warn`` is called with a summary of the malformed records of each file."""
    settings = config.data
    data = read_captions(settings.path, images=settings.images, strict=settings.strict)
    others = [read_captions(path, strict=settings.strict) for path in settings.also]
    for read in (data, *others):
        if complaint := read.complaint():
            warn(f"{complaint}, data.strict=true refuses them")
    train, dev = data.split(settings.train, restval=settings.restval), data.split(settings.dev)
    return merge(train, *(other.split("train", restval=True) for other in others)) if others else train, dev


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
