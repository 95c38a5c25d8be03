"""What every decoder is: start on a memory, write one word at a time, or be output whole captions at once.

Tensor letters in this package: B images, W hypotheses an image (in search), K captions an image (in training), T steps,
N places, D features of the memory, V words of the vocabulary, M real (not padding) positions of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from captioner.memory import Memory
from captioner.registry import Registry
from captioner.settings import Settings


class DecoderConfig(Settings):
    """Settings that every decoder shares."""


@dataclass(frozen=True)
class State:
    """All that a decoder remembers between two words.

    Attributes:
        hypotheses: tensors (B, W, ...) that differ between the hypotheses of an image.
        images: tensors (B, ...) that all hypotheses of an image share, and that are never copied per hypothesis.
    """

    hypotheses: Mapping[str, Tensor]
    images: Mapping[str, Tensor] = field(default_factory=dict)

    def pick(self, parents: Tensor | None = None, *, images: Tensor | None = None) -> State:
        """Return the state of other hypotheses.

        Args:
            parents: (B, W') for every new hypothesis the old one of the same image that it continues.
            images: (B',) the images to go on with; picked after ``parents``.
        """
        hypotheses, shared = self.hypotheses, self.images
        if parents is not None:
            first = torch.arange(parents.shape[0], device=parents.device).unsqueeze(1)
            hypotheses = {name: tensor[first, parents] for name, tensor in hypotheses.items()}
        if images is not None:
            hypotheses = {name: tensor[images] for name, tensor in hypotheses.items()}
            shared = {name: tensor[images] for name, tensor in shared.items()}
        return State(hypotheses, shared)


class Step(NamedTuple):
    """What one step of a decoder gives.

    Attributes:
        logits: (B, W, V) scores of the next word, before softmax.
        attention: (B, W, N) where it looked, summing to one over real places; ``None`` if the decoder does not attend.
        state: what to go on with.
    """

    logits: Tensor
    attention: Tensor | None
    state: State


class DecoderOutput(NamedTuple):
    """What teacher forcing gives.

    Attributes:
        logits: (M, V) for the real positions only, in the order of ``tokens[tokens != PAD]``.
        attention: (M, N) how it weighed the places at each of them; ``None`` if the decoder does not attend.
        sampled: (M,) the one place it drew from these weights and looked at, -1 where it looked at all; ``None`` if it
            never draws.
    """

    logits: Tensor
    attention: Tensor | None
    sampled: Tensor | None = None


class Decoder(nn.Module, ABC):
    """Writes a caption while it looks at a memory.

    A subclass has a ``Config`` (a :class:`DecoderConfig`) and is built as ``Decoder(config, features=D, words=V)``.
    """

    Config: ClassVar[type[DecoderConfig]]
    attends: ClassVar[bool]

    @abstractmethod
    def __init__(self, config: DecoderConfig, *, features: int, words: int) -> None:
        super().__init__()

    @abstractmethod
    def start(self, memory: Memory) -> State:
        """Prepare one hypothesis an image (W = 1), doing once all that does not depend on the words."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> Step:
        """Read the last word of every hypothesis, tokens (B, W), and score the next."""

    @abstractmethod
    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Score whole captions under teacher forcing.

        Args:
            memory: of B images.
            tokens: (B, K, T) input words, each caption ``<bos> w_1 ... w_n`` followed by padding. A row of padding only
                is an absent caption.
        """


DECODERS: Registry[type[Decoder]] = Registry("decoder")
