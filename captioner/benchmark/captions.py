"""The captions of all models, made now or kept from an earlier call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import captioner
from captioner.backend import choose_device
from captioner.benchmark.contestants import Contestant
from captioner.benchmark.listener import Listener
from captioner.benchmark.store import Key, Store, stamp
from captioner.data.dataset import CaptionData
from captioner.errors import CaptionerError, EvaluationError, FeatureStoreError
from captioner.evaluation.evaluate import generate
from captioner.features import FeatureStore
from captioner.pipeline import Captioner

# So many photos at most are captioned once more after an interruption.
STEP = 256


@dataclass
class Said:
    """What the models said.

    Attributes:
        captions: of each model that could be used, by image id.
        unreadable: what was wrong with photos, each once.
        notes: what a reader of the numbers must know.
    """

    captions: dict[str, dict[str, str]] = field(default_factory=dict)
    unreadable: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def caption_all(
    contestants: Sequence[Contestant],
    data: CaptionData,
    *,
    store: Store,
    features: Sequence[str | Path] = (),
    device: str = "auto",
    search: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    listener: Listener | None = None,
) -> Said:
    """Caption the photos with each model in turn; one at a time is in memory, and none whose captions are all kept.

    A model that is damaged is reported and left out, and so is a photo.

    Args:
        contestants: the models.
        data: a split.
        store: where captions are kept, from time to time while they are made.
        features: folders of feature stores. A model reads the first that its encoder made, and the photos if there is
            none.
        device: a torch device, or ``auto``.
        search: settings of the search for all models; what is not given is each model's own.
        batch_size: photos at once.
        listener: is told of it.

    Raises:
        ConfigError: there is no such device.
        EvaluationError: no model is left.
        FeatureStoreError: a store is damaged.
    """
    listener = listener or Listener()
    stores = {str(folder): FeatureStore(folder) for folder in features}
    settings, kind = dict(search or {}), choose_device(device).type
    said = Said()
    for contestant in contestants:
        one = _Captioning(contestant, data, said, store, stores, listener, batch_size)
        key = {"model": contestant.fingerprint, "captioner": captioner.__version__, "search": settings, "device": kind}
        try:
            said.captions[contestant.name] = one.run(
                key, partial(Captioner.from_pretrained, contestant.folder, device=device, **settings)
            )
        except CaptionerError as error:
            listener.failed(_named(contestant, error))
    for problem in said.unreadable:
        listener.failed(problem)
    if not said.captions:
        raise EvaluationError("no model is left to compare; the errors above say why")
    return said


@dataclass
class _Captioning:
    """The captioning of one model's photos."""

    contestant: Contestant
    data: CaptionData
    said: Said
    store: Store
    stores: Mapping[str, FeatureStore]
    listener: Listener
    batch_size: int

    def run(self, key: Key, load: Callable[[], Captioner]) -> dict[str, str]:
        """Return the captions by image id, in the order of the data."""
        name, photos = self.contestant.name, {photo.image_id: photo for photo in self.data.photos}
        model = load() if self.stores else None  # its encoder says which feature store is its own
        features = None if model is None else self._features(model)
        if features is not None:
            photos = {image: photo for image, photo in photos.items() if image in features}
        key = {**key, "features": None if features is None else _identity(features)}
        captions = self.store.captions(key, photos)
        if captions:
            self.listener.note(f"{name}: {len(captions):,} captions are used again from {self.store.folder}")
        todo = [photo for image, photo in photos.items() if image not in captions]
        if todo and model is None:
            model = load()
        step = self.batch_size * max(1, STEP // self.batch_size)  # in whole batches
        for start in range(0, len(todo), step):
            part = replace(self.data, photos=tuple(todo[start : start + step]))
            bar = self.listener.bar(f"Captioning, {name}", len(photos) - len(todo) + start, len(photos))
            assert model is not None
            made, errors = generate(model, part, features=features, batch_size=self.batch_size, progress=bar)
            captions |= made
            self.said.unreadable |= {str(error): None for error in errors}
            self.store.keep_captions(key, captions, photos)
        return {image: captions[image] for image in photos if image in captions}

    def _features(self, model: Captioner) -> FeatureStore | None:
        """Return the first store that the model's encoder made, and report the photos that are not in it."""
        for folder in self.stores:
            try:
                store = FeatureStore(folder, encoder=model.model.encoder)
            except FeatureStoreError:
                continue  # of another encoder: it could be opened without asking for one
            missing = (photo for photo in self.data.photos if photo.image_id not in store)
            self.said.unreadable |= {f"{photo.path}: not in the feature store {folder}": None for photo in missing}
            return store
        self.said.notes.append(
            f"{self.contestant.name}: none of the feature stores is of its encoder; it captioned the photos"
        )
        return None


def _identity(features: FeatureStore) -> list[Any]:
    """Return what tells a feature store from another, or from one made anew."""
    index = features.folder / "index.json"
    return [hashlib.sha256(index.read_bytes()).hexdigest(), stamp(index)]


def _named(contestant: Contestant, error: CaptionerError) -> str:
    """Say whose error it is, unless the error does."""
    text = str(error)
    return text if str(contestant.folder) in text else f"{contestant.name}: {text}"
