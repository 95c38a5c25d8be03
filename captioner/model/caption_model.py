"""A caption model: encoder, refiner, decoder and vocabulary, built from a config."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from captioner.decoders import DECODERS, Decoder
from captioner.encoders import ENCODERS, REFINERS, Encoder, Refiner
from captioner.encoders.refiner import Identity
from captioner.errors import ConfigError
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.search.config import SearchConfig
from captioner.search.consensus import Consensus
from captioner.settings import Settings, validate
from captioner.text.vocabulary import SPECIAL, Vocabulary


class ModelConfig(Settings):
    """The parts of a model, by their names in the registries, and their settings."""

    encoder: dict[str, Any] = Field(
        default_factory=lambda: {"name": "grid"}, description="name and settings of the encoder"
    )
    refiner: dict[str, Any] | None = Field(
        None, description="name and settings of the refiner between encoder and decoder; none by default"
    )
    decoder: dict[str, Any] = Field(
        default_factory=lambda: {"name": "show_attend_tell"}, description="name and settings of the decoder"
    )
    search: SearchConfig = Field(
        default_factory=SearchConfig, description="default settings of the search for captions"
    )

    @field_validator("encoder", "refiner", "decoder")
    @classmethod
    def _check_name(cls, part: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        registries: dict[str, Registry[Any]] = {"encoder": ENCODERS, "refiner": REFINERS, "decoder": DECODERS}
        return check_part(part, str(info.field_name), registries[str(info.field_name)])


EXAMPLES = {"encoder": "grid", "refiner": "transformer", "decoder": "show_attend_tell"}


def _split(part: dict[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(part.get("name"), str):
        raise ConfigError(f"{kind}: needs a name, for example {kind}: {{name: {EXAMPLES[kind]}}}")
    return part["name"], {key: value for key, value in part.items() if key != "name"}


def check_part(part: dict[str, Any] | None, kind: str, registry: Registry[Any]) -> dict[str, Any] | None:
    """Check the name and settings of a part of a model's config before it is built, and return it unchanged.

    Raises:
        ValueError: they are invalid; pydantic reports it together with other errors.
    """
    if part is not None:
        try:
            name, settings = _split(part, kind)
            validate(registry[name].Config, settings, where=kind)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix(f"{kind}: ")) from None
    return part


def build_encoder(part: dict[str, Any]) -> Encoder:
    """Build the encoder that a config names, in eval mode.

    Raises:
        ConfigError: the name or a setting is unknown.
        EncoderError: its weights are missing.
    """
    name, settings = _split(part, "encoder")
    kind: Any = ENCODERS[name]
    encoder: Encoder = kind(validate(kind.Config, settings, where="encoder"))
    return encoder.eval()


def build_refiner(part: dict[str, Any] | None, *, features: int) -> Refiner:
    """Build the refiner that a config names, with new weights; without one, an identity.

    Args:
        part: the refiner's name and settings.
        features: D of the memory.

    Raises:
        ConfigError: the name or a setting is unknown.
    """
    if part is None:
        return Identity(features=features)
    name, settings = _split(part, "refiner")
    kind: Any = REFINERS[name]
    refiner: Refiner = kind(validate(kind.Config, settings, where="refiner"), features=features)
    return refiner


def build_decoder(
    part: dict[str, Any], *, features: int, words: int, final_state: tuple[int, int] | None = None
) -> Decoder:
    """Build the decoder that a config names, with new weights.

    Args:
        part: the decoder's name and settings.
        features: D of the memory.
        words: size of the vocabulary.
        final_state: layers and units of the final state in the memory; ``None`` if there is none.

    Raises:
        ConfigError: the name or a setting is unknown, or the decoder starts from another state than the memory has.
    """
    name, settings = _split(part, "decoder")
    kind = DECODERS[name]
    decoder = kind(validate(kind.Config, settings, where="decoder"), features=features, words=words)
    if decoder.first_state is not None and decoder.first_state != final_state:
        if final_state is None:
            raise ConfigError(
                "decoder: from_state needs the final state of an LSTM, which only the text encoder 'sequence' gives, "
                "without a refiner; take those, as the recipe multi30k_seq2seq does, or leave from_state out"
            )
        needed, found = ("{} x {}".format(*state) for state in (decoder.first_state, final_state))
        raise ConfigError(
            f"decoder: starts from {needed} LSTM units (layers x units), and the encoder ends with {found}; change "
            "decoder.hidden, or encoder.layers and encoder.hidden, which counts twice with direction: both"
        )
    return decoder


class CaptionModel(nn.Module):
    """Encoder, refiner, decoder and vocabulary.

    Attributes:
        refiner: maps the encoder's memory to that of the decoder; an identity if the config names none.
        tuned_stages: number of the encoder's last stages that were fine-tuned; a checkpoint holds their weights.
        consensus: predicts the n-grams by which the hypotheses of a search are chosen; ``None`` if it was not fitted.
    """

    def __init__(
        self, config: ModelConfig, vocabulary: Vocabulary, encoder: Encoder, refiner: Refiner, decoder: Decoder
    ) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.encoder, self.refiner, self.decoder = encoder, refiner, decoder
        self.consensus: Consensus | None = None
        self.tuned_stages = 0

    @classmethod
    def build(cls, config: ModelConfig, vocabulary: Vocabulary, encoder: Encoder | None = None) -> CaptionModel:
        """Build a model with a new refiner and decoder, and the given encoder or that of the config."""
        encoder = encoder or build_encoder(config.encoder)
        refiner = build_refiner(config.refiner, features=encoder.features)
        decoder = build_decoder(config.decoder, features=refiner.features, words=len(vocabulary))
        return cls(config, vocabulary, encoder, refiner, decoder)

    @property
    def decoder_size(self) -> int:
        """Number of parameters of the refiner and the decoder together."""
        return sum(values.numel() for part in (self.refiner, self.decoder) for values in part.parameters())

    @torch.no_grad()
    def extended(self, vocabulary: Vocabulary) -> CaptionModel:
        """Return this model with a larger vocabulary; it shares the encoder.

        A new word is initialised as the mean of the known words, so it is as likely as an average word.

        Args:
            vocabulary: this model's, with the new words at the end; see :meth:`Vocabulary.extended`.

        Raises:
            ConfigError: the decoder has weights of another form than one axis of words.
        """
        larger = CaptionModel.build(self.config, vocabulary, self.encoder)
        larger.refiner.load_state_dict(self.refiner.state_dict())
        larger.consensus, larger.tuned_stages = self.consensus, self.tuned_stages
        n_words, state = len(self.vocabulary), self.decoder.state_dict()
        for name, new in larger.decoder.state_dict().items():
            old = state[name]
            if new.shape == old.shape:
                new.copy_(old)
                continue
            axes = [axis for axis in range(old.ndim) if new.shape[axis] != old.shape[axis]]
            if [old.shape[axis] for axis in axes] != [n_words] or not old.is_floating_point():
                raise ConfigError(
                    f"new_words: {name} of the decoder {self.config.decoder['name']!r} cannot grow from "
                    f"{tuple(old.shape)} to {tuple(new.shape)}, only an axis with a place for each word can; "
                    "leave new_words out"
                )
            new_rows, old_rows = new.movedim(axes[0], 0), old.movedim(axes[0], 0)  # a row for each word
            new_rows[:n_words] = old_rows
            new_rows[n_words:] = old_rows[len(SPECIAL) :].mean(0)
        return larger.train(self.training)

    def forward(self, pixels: Tensor) -> Memory:
        """Encode pixels (B, 3, S, S) uint8 to a memory in the decoder's precision, before the refiner."""
        memory: Memory = self.encoder(pixels)
        return memory.to(dtype=next(self.decoder.parameters()).dtype)
