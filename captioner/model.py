"""A caption model: an encoder, a decoder and a vocabulary, built from a config."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from captioner.decoders import DECODERS, Decoder, DecoderOutput, State, Step
from captioner.encoders import ENCODERS, REFINERS, Encoder
from captioner.errors import ConfigError
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.search import SearchConfig
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
    def _known(cls, part: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        registries: dict[str, Registry[Any]] = {"encoder": ENCODERS, "refiner": REFINERS, "decoder": DECODERS}
        return check_part(part, str(info.field_name), registries[str(info.field_name)])


EXAMPLES = {"encoder": "grid", "refiner": "transformer", "decoder": "show_attend_tell"}


def _split(part: dict[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(part.get("name"), str):
        raise ConfigError(f"{kind}: needs a name, for example {kind}: {{name: {EXAMPLES[kind]}}}")
    return part["name"], {key: value for key, value in part.items() if key != "name"}


def check_part(part: dict[str, Any] | None, kind: str, registry: Registry[Any]) -> dict[str, Any] | None:
    """Check the name and settings of a part of a model's config, long before it is built, and return it unchanged.

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


def build_decoder(part: dict[str, Any], *, features: int, words: int, refiner: dict[str, Any] | None = None) -> Decoder:
    """Build the decoder that a config names, after the refiner if one is named, with new weights.

    Args:
        part: the decoder's name and settings.
        features: D of the memory.
        words: size of the vocabulary.
        refiner: the refiner's name and settings, or ``None``.

    Raises:
        ConfigError: a name or a setting is unknown.
    """
    if refiner is not None:
        name, settings = _split(refiner, "refiner")
        family: Any = REFINERS[name]
        refining = family(validate(family.Config, settings, where="refiner"), features=features)
        return Refined(refining, build_decoder(part, features=refining.features, words=words))
    name, settings = _split(part, "decoder")
    kind = DECODERS[name]
    return kind(validate(kind.Config, settings, where="decoder"), features=features, words=words)


class Refined(Decoder):
    """Any decoder after any refiner, trained together; searches and the training loop treat them as one decoder.

    Args:
        refiner: a module from memory to memory that keeps its places, for example the Transformer's encoder.
        decoder: attends to the refined memory.
    """

    def __init__(self, refiner: nn.Module, decoder: Decoder) -> None:
        nn.Module.__init__(self)
        self.refiner, self.decoder = refiner, decoder
        self.attends = decoder.attends  # type: ignore[misc]
        self.reads_half = True  # type: ignore[misc]

    def refined(self, memory: Memory) -> tuple[Memory, Decoder]:
        """Refine the memory; see :meth:`Decoder.refined`."""
        return self.decoder.refined(self.refiner(memory))

    def start(self, memory: Memory) -> State:
        """Prepare one hypothesis per image; see :meth:`Decoder.start`."""
        refined: Memory = self.refiner(memory)
        return self.decoder.start(refined)

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        return self.decoder.step(tokens, state)

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Score whole captions (B, K, T); see :meth:`Decoder.forward`."""
        output: DecoderOutput = self.decoder(self.refiner(memory), tokens)
        return output


class CaptionModel(nn.Module):
    """Encoder, decoder and vocabulary.

    Attributes:
        tuned_stages: how many of the encoder's last stages were fine-tuned, so that a checkpoint must hold their
            weights.
    """

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.encoder, self.decoder = encoder, decoder
        self.tuned_stages = 0

    @classmethod
    def build(cls, config: ModelConfig, vocabulary: Vocabulary) -> CaptionModel:
        """Build a model with a newly initialised decoder."""
        encoder = build_encoder(config.encoder)
        decoder = build_decoder(
            config.decoder, features=encoder.features, words=len(vocabulary), refiner=config.refiner
        )
        return cls(config, vocabulary, encoder, decoder)

    @torch.no_grad()
    def extended(self, vocabulary: Vocabulary) -> CaptionModel:
        """Return this model with more words, which share its encoder and begin as the mean of the words it knows.

        As likely as an average word, a new one is neither pushed nor kept out before it is learned.

        Args:
            vocabulary: this model's, with the new words at the end; see :meth:`Vocabulary.extended`.
        """
        decoder = build_decoder(
            self.config.decoder, features=self.encoder.features, words=len(vocabulary), refiner=self.config.refiner
        )
        larger = CaptionModel(self.config, vocabulary, self.encoder, decoder)
        larger.tuned_stages = self.tuned_stages
        known, learned = len(self.vocabulary), self.decoder.state_dict()
        for name, values in decoder.state_dict().items():
            before = learned[name]
            if values.shape == before.shape:
                values.copy_(before)
            else:  # a row for each word
                values[:known] = before
                values[known:] = before[len(SPECIAL) :].mean(0)
        return larger.train(self.training)

    def forward(self, pixels: Tensor) -> Memory:
        """Encode pixels (B, 3, S, S) uint8 to a memory in the decoder's precision."""
        memory: Memory = self.encoder(pixels)
        return memory.to(dtype=next(self.decoder.parameters()).dtype)
