"""The feature store of a training run: which stages of the encoder it covers, and opening or building it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from captioner.data.dataset import CaptionData
from captioner.encoders import Encoder
from captioner.errors import ConfigError, FeatureStoreError
from captioner.features import FeatureStore, StoreSpace, build_store, store_space
from captioner.features.store import INDEX
from captioner.machine.processes import SINGLE_PROCESS, Processes
from captioner.model import CaptionModel
from captioner.text.vocabulary import Vocabulary
from captioner.training.data import read_data
from captioner.training.events import Events
from captioner.training.initial_model import build_model, stages_to_train
from captioner.training.recipe import TrainConfig


class StorePlan(NamedTuple):
    """The content of a run's feature store.

    Attributes:
        images: (image id, file) pairs.
        encoder: the encoder whose output is stored, without its last ``cut`` stages.
        cut: how many stages are left out.
    """

    images: list[tuple[str, Path]]
    encoder: Encoder
    cut: int


def store_folder(config: TrainConfig) -> Path:
    """Return the folder of a run's feature store."""
    return config.data.features or config.output / "features"


def store_cut(config: TrainConfig, model: CaptionModel) -> int | None:
    """Return how many of the encoder's last stages the feature store leaves out; ``None`` if the run has no store.

    The stored features depend only on weights that are frozen and shared with other models, so other models and runs
    can use the store. The tuned weights of an encoder from ``encoder_from`` count as shared.
    """
    encoder, stages = model.encoder, stages_to_train(config, model.encoder)
    if config.data.augment.of_images:
        return None
    if stages == encoder.stages:
        # The whole encoder is tuned: from the first epoch on, or after epochs on features of the frozen encoder.
        return None if config.fine_tune.from_epoch == 1 else 0
    return max(stages, 0 if config.encoder_from is not None else model.tuned_stages % encoder.stages)


def store_plan(config: TrainConfig, warn: Callable[[str], object] = lambda text: None) -> StorePlan:
    """Return the content of a run's feature store; see :func:`read_data` for ``warn``.

    Raises:
        ConfigError: the run has no store: it augments its images, or tunes the whole encoder from the first epoch on.
    """
    train, dev = read_data(config, warn)
    model = build_model(config, lambda: Vocabulary([]))
    cut = store_cut(config, model)
    if cut is None and config.data.augment.of_images:
        raise ConfigError(
            "data.augment: images are augmented and encoded in every epoch, so there is nothing to store; leave it out"
        )
    if cut is None:
        raise ConfigError(
            "fine_tune: the whole encoder is trained from the first epoch on, so there is nothing to store; "
            "set fine_tune.stages"
        )
    return StorePlan(files_of(train, dev), model.encoder, cut)


def files_of(*parts: CaptionData) -> list[tuple[str, Path]]:
    """Return the (image id, file) pairs of parts of a data set, each image once."""
    return list({image.image_id: image.path for part in parts for image in part.images}.items())


def needed_space(config: TrainConfig, model: CaptionModel, images: int) -> StoreSpace:
    """Return the disk space for a run's feature store of a number of images, if it has one."""
    cut = store_cut(config, model)
    if cut is None:
        return StoreSpace()
    return store_space(store_folder(config), model.encoder.front(cut), images, flips=config.data.flips)


def open_store(
    config: TrainConfig,
    model: CaptionModel,
    images: Sequence[tuple[str, Path]],
    *,
    resume: bool,
    device: torch.device,
    events: Events,
    processes: Processes = SINGLE_PROCESS,
) -> FeatureStore | None:
    """Open the feature store of a run, building it first if it does not exist; ``None`` if the run has no store.

    Args:
        config: the settings of the run.
        model: the model to train; its encoder is on ``device``.
        images: (image id, file) pairs.
        resume: whether the run is resumed.
        device: the device that encodes images.
        events: receives progress and warnings.
        processes: the processes that train together; all must call this.

    Raises:
        ConfigError: the settings need mirrored images and the store has none.
        FeatureStoreError: the store is damaged, or was made by another encoder; or the run is new, and the store in its
            folder was made of other images.
    """
    cut = store_cut(config, model)
    if cut is None:
        return None
    folder, flips = store_folder(config), config.data.flips
    exists = (folder / INDEX).exists()
    if not exists:
        report = build_store(
            folder,
            model.encoder.front(cut).fast(device),
            images,
            flips=flips,
            progress=lambda done, total: events.progress("encoding", done, total, ""),
            processes=processes,
        )
        for error in report.errors:
            events.warn(f"left out: {error}")
    store = FeatureStore(folder, encoder=model.encoder)
    if exists and config.data.features is None and not resume:
        _check_images(store, images)
    elif exists and (changed := store.changed(images)):
        events.warn(f"{changed}; if they show something else, make the features again")
    if flips and not store.flips:
        raise ConfigError(f"{folder}: has no mirrored images; make the features with --flips, or set data.flips=false")
    stages = stages_to_train(config, model.encoder)
    if store.cut < stages < model.encoder.stages:
        events.warn(
            f"{folder}: leaves off {store.cut} stages of the encoder, but {stages} are trained from epoch "
            f"{config.fine_tune.from_epoch} on; from then on images are read and encoded in every epoch, which is much "
            f"slower; to avoid that, make the features with --cut {stages}"
        )
    return store


def _check_images(store: FeatureStore, images: Sequence[tuple[str, Path]]) -> None:
    """Check that a store was made of these images.

    Raises:
        FeatureStoreError: it was made of others.
    """
    unreadable = {source for source, _ in store.index.get("errors", [])}
    missing = [path for image_id, path in images if image_id not in store and str(path) not in unreadable]
    problem = (
        f"{store.folder}: has no features of {len(missing):,} of the images, such as {missing[0]}" if missing else ""
    )
    if problem := problem or store.changed(images) or "":
        raise FeatureStoreError(f"{problem}; delete this folder, which is made again, or give another --output")
