"""The interface of decoders: :meth:`Decoder.start` and :meth:`Decoder.step`; ``forward`` scores whole captions.

Tensor letters in this package: B images, W hypotheses per image (in search), K captions per image (in training), T
steps, N regions or cells, D features of the memory, V words of the vocabulary, M real (not padding) positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from captioner.layers.linear import Packable
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.settings import Settings
from captioner.text.vocabulary import PAD


class DecoderConfig(Settings):
    """Settings that every decoder shares."""


@dataclass(frozen=True)
class State:
    """The state of a decoder between two words.

    Attributes:
        hypotheses: tensors (B, W, ...), one row per hypothesis.
        images: tensors (B, ...) that the hypotheses of an image share; they are never copied per hypothesis.
    """

    hypotheses: Mapping[str, Tensor]
    images: Mapping[str, Tensor] = field(default_factory=dict)

    def pick(self, parents: Tensor | None = None, *, images: Tensor | None = None) -> State:
        """Select hypotheses, then images.

        Args:
            parents: (B, W') for every new hypothesis, the old one of the same image that it continues.
            images: (B',) the images to keep.
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
    """The output of one step of a decoder.

    Attributes:
        logits: (B, W, V) scores of the next word, before softmax.
        attention: (B, W, N) weights that sum to one over real regions or cells; ``None`` if the decoder does not
            attend.
        state: the state after the step.
    """

    logits: Tensor
    attention: Tensor | None
    state: State


class DecoderOutput(NamedTuple):
    """The output of teacher forcing.

    Attributes:
        logits: (M, V) for the real positions only, in the order of ``tokens[tokens != PAD]``.
        attention: (M, N) the attention weights at each of them; ``None`` if the decoder does not attend.
        sampled: (M,) the region or cell sampled from these weights, -1 for the expected vector; ``None`` if the decoder
            never samples.
    """

    logits: Tensor
    attention: Tensor | None
    sampled: Tensor | None = None


class Decoder(nn.Module, Packable, ABC):
    """Predicts captions word by word from a memory.

    A subclass has a ``Config`` (a :class:`DecoderConfig`), is built as ``Decoder(config, features=D, words=V)``, and
    defines :meth:`start` and :meth:`step`. That is enough for training and search.

    Attributes:
        attends: whether its steps return attention.
        reads_half: whether its packed copy (:mod:`captioner.layers.linear`) accepts a memory in 16 bits; otherwise it
            needs the precision of the weights. A subclass must set it again, since it may use the memory differently.
        first_state: layers and units of the LSTM state in the memory from which it starts; ``None`` if it needs none.
    """

    Config: ClassVar[type[DecoderConfig]]
    attends: ClassVar[bool]
    reads_half: ClassVar[bool] = False
    first_state: tuple[int, int] | None = None

    @abstractmethod
    def __init__(self, config: DecoderConfig, *, features: int, words: int) -> None:
        super().__init__()

    @abstractmethod
    def start(self, memory: Memory) -> State:
        """Start one hypothesis per image (W = 1), and compute the tensors that do not depend on the words."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> Step:
        """Compute the logits of the next word from the last word of every hypothesis, tokens (B, W)."""

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Score whole captions under teacher forcing.

        This is the plain loop over :meth:`step`. The shipped decoders override it with faster, equal forms.

        Args:
            memory: of B images.
            tokens: (B, K, T) input words, each caption ``<bos> w_1 ... w_n`` followed by padding. A row of padding only
                is an absent caption.
        """
        real = tokens != PAD
        state = self.start(memory).pick(torch.zeros_like(tokens[..., 0]))
        logits, attention = [], []
        for words in tokens.unbind(-1):
            step = self.step(words, state)
            state = step.state
            logits.append(step.logits)
            if step.attention is not None:
                attention.append(step.attention)
        return DecoderOutput(
            torch.stack(logits, dim=2)[real], torch.stack(attention, dim=2)[real] if attention else None
        )


DECODERS: Registry[type[Decoder]] = Registry("decoder", group="captioner.decoders")
