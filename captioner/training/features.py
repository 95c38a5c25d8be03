"""The feature store of a training run: how much of the encoder it covers, and opening or building it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from captioner import files
from captioner.checkpoint import load_model
from captioner.encoders import Encoder
from captioner.errors import ConfigError, EncoderError
from captioner.features import FeatureStore, build_store, store_bytes
from captioner.features.build import size_of
from captioner.features.store import INDEX
from captioner.model import CaptionModel
from captioner.processes import ALONE, Processes
from captioner.text.vocabulary import Vocabulary
from captioner.training.data import read_data
from captioner.training.forecast import StoreNeed
from captioner.training.log import bar
from captioner.training.recipe import TrainConfig

Pictures = list[tuple[str, Path]]


class StorePlan(NamedTuple):
    """What the feature store of a run holds.

    Attributes:
        pictures: (image id, file) pairs.
        encoder: the encoder whose output is stored, without its last ``cut`` stages.
        cut: how many stages are left off.
    """

    pictures: Pictures
    encoder: Encoder
    cut: int


def build_model(config: TrainConfig, vocabulary: Callable[[], Vocabulary]) -> CaptionModel:
    """Return the model that a run begins with.

    Args:
        config: the settings of the run.
        vocabulary: makes that of the training captions, for a new model or new words.

    Raises:
        CheckpointError: a model that the settings name cannot be read.
        ConfigError: its encoder is not the recipe's.
    """
    if config.start is not None:
        model = load_model(config.start)
        if not config.new_words:
            return model
        larger = model.vocabulary.extended(vocabulary())
        return model if len(larger) == len(model.vocabulary) else model.extended(larger)
    model = CaptionModel.build(config.model, vocabulary())
    if config.encoder_from is not None:
        other = load_model(config.encoder_from)
        try:
            model.encoder.adopt(other.encoder, other.tuned_stages)
        except EncoderError as error:
            raise ConfigError(f"encoder_from: {config.encoder_from}: {error}; change model.encoder") from None
        model.tuned_stages = other.tuned_stages
    return model


def stages_to_train(config: TrainConfig, encoder: Encoder) -> int:
    """Return how many of the encoder's last stages a run trains, from some epoch on.

    Raises:
        ConfigError: the encoder has fewer stages.
    """
    if config.fine_tune.from_epoch is None:
        return 0
    stages = config.fine_tune.stages or encoder.stages
    if stages > encoder.stages:
        raise ConfigError(f"fine_tune.stages: the encoder has {encoder.stages} stages, not {stages}")
    return stages


def store_cut(config: TrainConfig, model: CaptionModel) -> int | None:
    """Return how many of the encoder's last stages the feature store leaves off; ``None`` if the run has no store.

    The store ends where the weights of this model, or of this run, begin, so that other models and runs can use it too;
    an encoder that the run takes from another model is shared, and is stored with those weights.
    """
    encoder, stages = model.encoder, stages_to_train(config, model.encoder)
    if config.data.augment.of_images:
        return None
    if stages == encoder.stages:
        # The whole encoder is trained: from the first epoch on, or after epochs on the features of the initial encoder.
        return None if config.fine_tune.from_epoch == 1 else 0
    return max(stages, 0 if config.encoder_from is not None else model.tuned_stages % encoder.stages)


def store_plan(config: TrainConfig, warn: Callable[[str], object] = lambda complaint: None) -> StorePlan:
    """Return what the feature store of a run has to hold; see :func:`read_data` for ``warn``.

    Raises:
        ConfigError: the run has no store: it varies its pictures, or trains the whole encoder from its first epoch on.
    """
    train, dev = read_data(config, warn)
    model = build_model(config, lambda: Vocabulary([]))
    cut = store_cut(config, model)
    if cut is None and config.data.augment.of_images:
        raise ConfigError(
            "data.augment: pictures are varied and encoded in every epoch, so there is nothing to store; leave it out"
        )
    if cut is None:
        raise ConfigError(
            "fine_tune: the whole encoder is trained from the first epoch on, so there is nothing to store; "
            "set fine_tune.stages"
        )
    return StorePlan([(photo.image_id, photo.path) for photo in (*train.photos, *dev.photos)], model.encoder, cut)


def store_need(config: TrainConfig, model: CaptionModel, pictures: int) -> StoreNeed:
    """Return what the feature store of a run on a number of pictures needs."""
    cut = store_cut(config, model)
    if cut is None:
        return StoreNeed()
    folder = config.data.features or config.output / "features"
    whole = store_bytes(model.encoder.front(cut), pictures, flips=config.data.flips)
    if (folder / INDEX).exists():
        return StoreNeed(folder, exists=True, bytes=whole)
    return StoreNeed(folder, bytes=whole, left=max(0, whole - size_of(folder)), free=files.free_bytes(folder))


def open_store(
    config: TrainConfig,
    model: CaptionModel,
    pictures: Sequence[tuple[str, Path]],
    *,
    device: torch.device,
    console: Console,
    processes: Processes = ALONE,
) -> FeatureStore | None:
    """Open the feature store of a run, building it first if it does not exist; ``None`` if the run needs no store.

    Args:
        config: the settings of the run.
        model: the model to train; its encoder is on ``device``.
        pictures: (image id, file) pairs that a store built here holds.
        device: where pictures are encoded.
        console: where progress and warnings are shown.
        processes: those that train together and all call this.

    Raises:
        ConfigError: the store lacks the mirrored pictures that the settings ask for.
        FeatureStoreError: the store is damaged, or was made by another encoder.
    """
    cut = store_cut(config, model)
    if cut is None:
        return None
    data = config.data
    folder = data.features or config.output / "features"
    if not (folder / INDEX).exists():
        _build(
            folder,
            model.encoder.front(cut),
            pictures,
            flips=data.flips,
            device=device,
            console=console,
            processes=processes,
        )
    store = FeatureStore(folder, encoder=model.encoder)
    if data.flips and not store.flips:
        raise ConfigError(
            f"{folder}: has no mirrored pictures; make the features with --flips, or set data.flips=false"
        )
    stages = stages_to_train(config, model.encoder)
    if store.cut < stages < model.encoder.stages:
        console.print(
            f"{folder}: leaves off {store.cut} stages of the encoder, but {stages} are trained from epoch "
            f"{config.fine_tune.from_epoch} on; from then on pictures are read and encoded in every epoch, which is "
            f"much slower; to avoid that, make the features with --cut {stages}",
            style="yellow",
        )
    return store


def _build(
    folder: Path,
    encoder: Encoder,
    pictures: Sequence[tuple[str, Path]],
    *,
    flips: bool,
    device: torch.device,
    console: Console,
    processes: Processes,
) -> None:
    with bar(console) as progress:
        task = progress.add_task("encoding", total=len(pictures) * (1 + flips), info="")
        report = build_store(
            folder,
            encoder.fast(device),
            pictures,
            flips=flips,
            progress=lambda done, _: progress.update(task, completed=done),
            processes=processes,
        )
    for error in report.errors:
        console.print(f"left out: {error}", style="yellow")
