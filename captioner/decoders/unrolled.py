"""What the attending LSTM decoders share: one step serves search and training, and training unrolls it fast.

The plain form is :meth:`Decoder.forward`, a loop over ``step``. :meth:`Unrolled.forward` gives the same numbers. It
packs captions of different lengths, computes the words' part of the gates once for every distinct word, and gives each
weight and each place one gradient for all steps (:mod:`captioner.layers.unroll`, :mod:`captioner.layers.additive`).

Tensor letters as in :mod:`captioner.decoders.decoder`; H hidden units, A attention units.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.decoders.decoder import Decoder, DecoderOutput, State, Step
from captioner.layers.additive import Attend, Keys, Sampler, additive_attention, attend
from captioner.layers.packing import Packing
from captioner.layers.unroll import Products, Recurrent, unrolled_products
from captioner.memory import Memory
from captioner.text.vocabulary import PAD


@dataclass(frozen=True)
class Begun:
    """What is computed once for each image, before the first word.

    Attributes:
        values: (B, N, D) the vectors that attention averages.
        keys: (B, N, A) the same places, projected for scoring.
        past: (B, 1, H) the first state of the LSTMs, by name.
        images: (B, ...) what else every step needs, by name.
    """

    values: Tensor
    keys: Tensor
    past: Mapping[str, Tensor]
    images: Mapping[str, Tensor] = field(default_factory=dict)


class Advanced(NamedTuple):
    """The result of one step of a recurrence, for W hypotheses or captions of each image.

    Attributes:
        past: (B, W, H) the new state, by name.
        alpha: (B, W, N) the attention weights.
        read: (B, W, ...) what the output layer reads.
        sampled: (B, W) the places that hard attention chose; ``None`` if it is soft.
    """

    past: dict[str, Tensor]
    alpha: Tensor
    read: tuple[Tensor, ...]
    sampled: Tensor | None = None


class Unrolled(Recurrent, Decoder):
    """An LSTM decoder with additive attention; a subclass defines the five methods below.

    Attributes:
        score: (A,) the scoring vector of the attention network.
    """

    reads_half = True
    score: nn.Parameter

    @abstractmethod
    def begin(self, memory: Memory) -> Begun:
        """Compute what does not depend on the words."""

    @abstractmethod
    def word_gates(self, tokens: Tensor) -> Tensor:
        """Return the words' (...,) part of the first LSTM's gates (..., 4H), biases included.

        Training calls this once for every distinct word of a batch, so all its occurrences share one dropout mask.
        """

    @abstractmethod
    def advance(
        self, word: Tensor, past: Mapping[str, Tensor], attend: Attend, times: Products, images: Mapping[str, Tensor]
    ) -> Advanced:
        """Advance by one word.

        Args:
            word: (B, W, 4H) from :meth:`word_gates`.
            past: (B, W, H) the state before the step.
            attend: the attention of this step, from a query (B, W, A).
            times: the products of this step, by the names in :meth:`weights`.
            images: from :attr:`Begun.images`.
        """

    @abstractmethod
    def logits(self, tokens: Tensor, *read: Tensor) -> Tensor:
        """Return the logits (..., V) of the next word from the last one (...,) and :attr:`Advanced.read`."""

    def sampler(self, images: int, captions: int) -> Sampler | None:
        """Return the function that chooses places for (images, captions); ``None`` if attention is soft."""
        return None

    def start(self, memory: Memory) -> State:
        """Prepare one hypothesis per image; see :meth:`Decoder.start`."""
        begun = self.begin(memory)
        images = {"values": begun.values, "keys": Keys.of(begun.keys).units_first, **begun.images}
        if memory.mask is not None:
            images["mask"] = memory.mask
        return State(begun.past, images)

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        images = state.images
        attend_once = partial(
            attend,
            keys=images["keys"],
            values=images["values"],
            v=self.score,
            mask=images.get("mask"),
            sampler=self.sampler(*tokens.shape),
        )
        after = self.advance(self.word_gates(tokens), state.hypotheses, attend_once, self.products(), images)
        return Step(self.logits(tokens, *after.read), after.alpha, State(after.past, images))

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Score whole captions (B, K, T); see :meth:`Decoder.forward`."""
        b, k, _ = tokens.shape
        packing = Packing.of(tokens)
        memory = memory[packing.order]
        begun = self.begin(memory)
        distinct, index = packing.words.unique(return_inverse=True)
        rows = [images * k for images in packing.active]
        words = F.embedding(index, self.word_gates(distinct)).split(rows)
        attends = additive_attention(
            begun.keys,
            begun.values,
            self.score,
            mask=memory.mask,
            active=packing.active,
            captions=k,
            sampler=self.sampler(b, k),
        )
        products = unrolled_products({name: w for name, w in self.weights().items() if name != "word"}, rows)
        past = {name: first.expand(-1, k, -1) for name, first in begun.past.items()}
        steps: list[Advanced] = []
        for images, word, attend_t, times in zip(packing.active, words, attends, products, strict=True):
            past = {name: part[:images] for name, part in past.items()}
            shared = {name: part[:images] for name, part in begun.images.items()}
            steps.append(self.advance(word.view(images, k, -1), past, attend_t, times, shared))
            past = steps[-1].past

        def gather(parts: tuple[Tensor, ...]) -> Tensor:
            """Return one part of every step at the real positions, (M, ...)."""
            return torch.cat([part.flatten(0, 1) for part in parts]).index_select(0, packing.rows)

        read = [gather(parts) for parts in zip(*(step.read for step in steps), strict=True)]
        alpha = gather(tuple(step.alpha for step in steps))
        sampled = tuple(step.sampled for step in steps if step.sampled is not None)
        return DecoderOutput(self.logits(tokens[tokens != PAD], *read), alpha, gather(sampled) if sampled else None)
