"""Captions of all contestants: generated, cached, or given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import captioner
from captioner.benchmark.cache import BenchmarkCache, Key, sha256_of, stamp
from captioner.benchmark.contestants import Contestant, GivenCaptions
from captioner.benchmark.listener import Listener
from captioner.captioner import Captioner
from captioner.data.dataset import CaptionData
from captioner.engines.model import torch_engine
from captioner.errors import CaptionerError, EvaluationError, FeatureStoreError
from captioner.evaluation.evaluate import generate
from captioner.evaluation.results import match_images
from captioner.features import FeatureStore
from captioner.machine.backend import choose_device

# At most this many images are captioned again after an interruption.
SAVE_EVERY = 256


@dataclass
class GeneratedCaptions:
    """The captions of all contestants.

    Attributes:
        captions: the captions of each usable contestant, by image id, in the order of the contestants.
        unreadable: errors of images that a contestant did not caption, each listed once.
        notes: caveats for readers of the numbers.
        given: names of the contestants that were read from results files.
    """

    captions: dict[str, dict[str, str]] = field(default_factory=dict)
    unreadable: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)


def caption_all(
    contestants: Sequence[Contestant | GivenCaptions],
    data: CaptionData,
    *,
    cache: BenchmarkCache,
    features: Sequence[str | Path] = (),
    device: str = "auto",
    search: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    listener: Listener | None = None,
) -> GeneratedCaptions:
    """Caption the images with each model in turn.

    Only one model is in memory at a time. Without feature stores, a model whose captions are all cached is not loaded.
    Damaged models and images are reported and left out. The captions of other programs stay as they are; images without
    one are left out like images that a model cannot read.

    Args:
        contestants: the models, and captions of other programs.
        data: a split.
        cache: captions are saved in it periodically while they are generated.
        features: folders of feature stores. A model reads the first store built by its encoder, or the images if there
            is none.
        device: a torch device, or ``auto``.
        search: search settings for all models; any other setting is the model's own.
        batch_size: images per batch.
        listener: receives progress, notes and errors.

    Raises:
        ConfigError: the device does not exist.
        EvaluationError: no model is left.
        FeatureStoreError: a store is damaged.
    """
    listener = listener or Listener()
    stores = {str(folder): FeatureStore(folder) for folder in features}
    settings, kind = dict(search or {}), choose_device(device).type
    generated = GeneratedCaptions()
    # Files first: one of other images is reported before minutes of captioning.
    for contestant in contestants:
        if isinstance(contestant, GivenCaptions):
            _take(contestant, data, generated, listener)
    for contestant in contestants:
        if isinstance(contestant, GivenCaptions):
            continue
        captioning = _Captioning(contestant, data, generated, cache, stores, listener, batch_size)
        key = {"model": contestant.fingerprint, "captioner": captioner.__version__, "search": settings, "device": kind}
        try:
            generated.captions[contestant.name] = captioning.run(
                key, partial(Captioner.from_pretrained, contestant.model, device=device, engine="torch", **settings)
            )
        except CaptionerError as error:
            listener.failed(_named(contestant, error))
    for problem in generated.unreadable:
        listener.failed(problem)
    if not generated.captions:
        raise EvaluationError("no model is left to compare; see the errors above")
    order = [contestant.name for contestant in contestants if contestant.name in generated.captions]
    generated.captions = {name: generated.captions[name] for name in order}
    return generated


def _take(contestant: GivenCaptions, data: CaptionData, generated: GeneratedCaptions, listener: Listener) -> None:
    """Add the captions of another program, or report why none of them can be used."""
    name, path = contestant.name, contestant.path
    try:
        matched = match_images(contestant.captions, data, str(path))
    except EvaluationError as error:
        listener.failed(str(error))
        return
    if matched.unknown is not None:
        listener.failed(str(matched.unknown))
    if matched.missing is not None:
        generated.unreadable[f"{matched.missing}; nothing is compared on these"] = None
    generated.captions[name] = matched.captions
    generated.given.append(name)
    generated.notes.append(f"{name}: its captions come from {path}, so its time, memory and attention are not known.")
    if empty := sum(not caption.strip() for caption in matched.captions.values()):
        generated.notes.append(f"{name}: {empty:,} of its captions are empty and score 0.")


@dataclass
class _Captioning:
    contestant: Contestant
    data: CaptionData
    generated: GeneratedCaptions
    cache: BenchmarkCache
    stores: Mapping[str, FeatureStore]
    listener: Listener
    batch_size: int

    def run(self, key: Key, load: Callable[[], Captioner]) -> dict[str, str]:
        """Return captions by image id, in the order of the data."""
        name, images = self.contestant.name, {image.image_id: image for image in self.data.images}
        model = load() if self.stores else None  # its encoder identifies the matching feature store
        features = None if model is None else self._features(model)
        if features is not None:
            images = {image_id: image for image_id, image in images.items() if image_id in features}
        key = {**key, "features": None if features is None else _identity(features)}
        captions = self.cache.captions(key, images)
        if captions:
            self.listener.note(f"{name}: {len(captions):,} captions are used again from {self.cache.folder}")
        todo = [image for image_id, image in images.items() if image_id not in captions]
        if todo and model is None:
            model = load()
        step = self.batch_size * max(1, SAVE_EVERY // self.batch_size)  # in whole batches
        for start in range(0, len(todo), step):
            part = replace(self.data, images=tuple(todo[start : start + step]))
            bar = self.listener.bar(f"Captioning, {name}", len(images) - len(todo) + start, len(images))
            assert model is not None
            new, errors = generate(model, part, features=features, batch_size=self.batch_size, progress=bar)
            captions |= new
            self.generated.unreadable |= {str(error): None for error in errors}
            self.cache.save_captions(key, captions, images)
        return {image_id: captions[image_id] for image_id in images if image_id in captions}

    def _features(self, model: Captioner) -> FeatureStore | None:
        """Return the first store built by the model's encoder, and report images missing from it."""
        for folder in self.stores:
            try:
                store = torch_engine(model.engine, "read features").open_features(folder)
            except FeatureStoreError:
                continue  # built by another encoder: the folder opened without one
            missing = (image for image in self.data.images if image.image_id not in store)
            self.generated.unreadable |= {f"{image.path}: not in the feature store {folder}": None for image in missing}
            if changed := store.changed([(image.image_id, image.path) for image in self.data.images]):
                self.generated.notes.append(f"{self.contestant.name}: {changed}")
            return store
        self.generated.notes.append(
            f"{self.contestant.name}: no feature store was built by its encoder; it captioned the images themselves"
        )
        return None


def _identity(features: FeatureStore) -> list[Any]:
    """Return a value that identifies a build of a feature store."""
    index = features.folder / "index.json"
    return [sha256_of(index), stamp(index)]


def _named(contestant: Contestant, error: CaptionerError) -> str:
    """Prefix the error with the model's name unless it already names a folder of the model."""
    text = str(error)
    return text if any(str(folder) in text for folder in contestant.folders) else f"{contestant.name}: {text}"
