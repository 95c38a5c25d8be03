"""The model before the first step of a training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from captioner.encoders import Encoder
from captioner.errors import ConfigError, EncoderError
from captioner.model import CaptionModel, build_encoder
from captioner.model.checkpoint import is_random, load_model
from captioner.text.vocabulary import Vocabulary
from captioner.training.recipe import TrainConfig
from captioner.training.resume import differences


def build_model(config: TrainConfig, vocabulary: Callable[[], Vocabulary]) -> CaptionModel:
    """Build a model, or load the one in ``start`` and extend its vocabulary.

    Args:
        config: the settings of the run.
        vocabulary: builds the vocabulary of the training captions; called only if it is needed.

    Raises:
        CheckpointError: a model that the settings name cannot be read.
        ConfigError: the encoder of ``encoder_from`` is not the recipe's.
    """
    if config.start is not None:
        model = load_model(config.start)
        model.consensus = None  # it was fitted to other captions, or to features that training changes
        if not config.new_words:
            return model
        larger = model.vocabulary.extended(vocabulary())
        return model if len(larger) == len(model.vocabulary) else model.extended(larger)
    model = CaptionModel.build(config.model, vocabulary())
    if not _is_installed(model.encoder, config.model.encoder):
        model.tuned_stages = model.encoder.stages  # the model's folder holds its weights
    if config.encoder_from is not None:
        other = load_model(config.encoder_from)
        try:
            model.encoder.copy_weights(other.encoder, other.tuned_stages)
        except EncoderError as error:
            raise ConfigError(f"encoder_from: {config.encoder_from}: {error}; change model.encoder") from None
        model.tuned_stages = other.tuned_stages
    return model


def unused_settings(config: TrainConfig, model: CaptionModel) -> str | None:
    """Describe the recipe's model settings that differ from those of the model in ``start``; ``None`` if none do."""
    recipe = config.model.model_dump(mode="json", exclude_unset=True)
    found = differences(model.config.model_dump(mode="json"), recipe)
    each = [f"{name} is {start!r}, not {given!r}" for name, (start, given) in found.items() if given is not None]
    if not each:
        return None
    more = f", and {len(each) - 3} more" if len(each) > 3 else ""
    return f"model: the model in 'start' keeps its own settings: {'; '.join(each[:3])}{more}"


def _is_installed(encoder: Encoder, part: dict[str, Any]) -> bool:
    """Return whether building the encoder again gives the same weights, not new random ones."""
    if type(encoder).__module__.startswith("captioner.") and not is_random(part):
        return True
    with torch.random.fork_rng(devices=[]):
        return build_encoder(part).fingerprint() == encoder.fingerprint()


def stages_to_train(config: TrainConfig, encoder: Encoder) -> int:
    """Return how many of the encoder's last stages a run tunes, from ``fine_tune.from_epoch`` on.

    Raises:
        ConfigError: the encoder has fewer stages.
    """
    if config.fine_tune.from_epoch is None:
        return 0
    stages = config.fine_tune.stages or encoder.stages
    if stages > encoder.stages:
        raise ConfigError(f"fine_tune.stages: the encoder has {encoder.stages} stages, not {stages}")
    return stages
