"""Base class of LSTM decoders with additive attention: one recurrence for search and for training.

A subclass implements the equations of its paper in :meth:`UnrolledDecoder.advance`. Search calls it through ``step``;
training unrolls it in :meth:`UnrolledDecoder.forward`, which gives the same numbers as the plain loop in
:meth:`Decoder.forward`, but

* leaves out captions that have ended (:mod:`captioner.layers.packing`); each of the others is one row, W = 1,
* computes the words' part of the gates once for every distinct word of the batch,
* computes the gradient of each weight and of each region or cell once for all steps (:mod:`captioner.layers.unroll`,
  :mod:`captioner.layers.additive`).

Tensor letters as in :mod:`captioner.decoders.decoder`; H hidden units, A attention units.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.decoders.decoder import Decoder, DecoderOutput, State, Step
from captioner.layers.additive import Attend, Keys, Sampler, additive_attention, attend
from captioner.layers.packing import Packing
from captioner.layers.unroll import Products, Recurrent, product, unrolled_products
from captioner.memory import Memory
from captioner.text.vocabulary import PAD


@dataclass(frozen=True)
class PreparedMemory:
    """The tensors that do not depend on the words, computed once per image.

    Attributes:
        values: (B, N, D) the vectors that attention averages.
        keys: (B, N, A) the same regions or cells, projected for scoring.
        past: (B, 1, H) the first state of the LSTMs, by name.
        gates: (B, 4H) the image's part of the first LSTM's gates; ``None`` if it has none.
    """

    values: Tensor
    keys: Tensor
    past: Mapping[str, Tensor]
    gates: Tensor | None = None


class AdvanceOutput(NamedTuple):
    """The result of one step, for W hypotheses or captions per image.

    Attributes:
        past: (B, W, H) the new state, by name.
        alpha: (B, W, N) the attention weights.
        read: (B, W, ...) the inputs of the output layer.
        sampled: (B, W) the region or cell chosen by hard attention; ``None`` with soft attention.
    """

    past: dict[str, Tensor]
    alpha: Tensor
    read: tuple[Tensor, ...]
    sampled: Tensor | None = None


class UnrolledDecoder(Recurrent, Decoder):
    """An LSTM decoder with additive attention; a subclass defines the abstract methods.

    Attributes:
        score: (A,) the scoring vector of the attention network.
    """

    score: nn.Parameter
    _expects = False  # see expected_vectors

    @abstractmethod
    def prepare(self, memory: Memory) -> PreparedMemory:
        """Compute the tensors that do not depend on the words."""

    @abstractmethod
    def word_gates(self, tokens: Tensor, times: Products) -> Tensor:
        """Return the words' (...,) part of the first LSTM's gates (..., 4H), biases included.

        ``times`` are products with the maps of :meth:`maps`, by the name of their vector. Training calls this once per
        distinct word of a batch, so all occurrences of a word share a dropout mask.
        """

    @abstractmethod
    def advance(self, word: Tensor, past: Mapping[str, Tensor], attend: Attend, times: Products) -> AdvanceOutput:
        """Advance the recurrence by one word.

        Args:
            word: (B, W, 4H) the sum of :meth:`word_gates` and :attr:`PreparedMemory.gates`.
            past: (B, W, H) the state before the step, by name.
            attend: attention from a query (B, W, A).
            times: products with the maps of :meth:`maps`, by the name of their vector.
        """

    @abstractmethod
    def logits(self, tokens: Tensor, *read: Tensor) -> Tensor:
        """Return the logits (..., V) of the next word from the last one (...,) and :attr:`AdvanceOutput.read`."""

    def sampler(self, images: int, captions: int) -> Sampler | None:
        """Return the sampler of hard attention for (images, captions); ``None`` is soft attention."""
        return None

    @contextmanager
    def expected_vectors(self) -> Iterator[None]:
        """Make hard attention use the expected vector in :meth:`forward`; the same random numbers are drawn."""
        self._expects = True
        try:
            yield
        finally:
            self._expects = False

    def start(self, memory: Memory) -> State:
        prepared = self.prepare(memory)
        images = {"values": prepared.values, "keys": Keys.of(prepared.keys).units_first}
        if memory.mask is not None:
            images["mask"] = memory.mask
        if prepared.gates is not None:
            images["gates"] = prepared.gates
        return State(prepared.past, images)

    def step(self, tokens: Tensor, state: State) -> Step:
        """Call :meth:`advance` once."""
        images = state.images
        attend_once = partial(
            attend,
            keys=images["keys"],
            values=images["values"],
            v=self.score,
            mask=images.get("mask"),
            sampler=self.sampler(*tokens.shape),
        )
        times = self.products()
        word = self.word_gates(tokens, times)
        if "gates" in images:
            word = images["gates"].unsqueeze(1) + word
        after = self.advance(word, state.hypotheses, attend_once, times)
        return Step(self.logits(tokens, *after.read), after.alpha, State(after.past, images))

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Unroll :meth:`advance` over captions (B, K, T)."""
        packing = Packing.of(tokens)
        prepared = self.prepare(memory)
        distinct, index = packing.words.unique(return_inverse=True)
        maps = dict(self.maps())
        words = F.embedding(index, self.word_gates(distinct, {"word": partial(product, maps=maps.pop("word"))}))
        if prepared.gates is not None:
            words = words + F.embedding(packing.image, prepared.gates)
        sampler = self.sampler(*tokens.shape[:2])
        attends = additive_attention(
            prepared.keys,
            prepared.values,
            self.score,
            mask=memory.mask,
            packing=packing,
            sampler=partial(_expected, sampler) if sampler and self._expects else sampler,
        )
        products = unrolled_products(maps, packing.active)
        captions = packing.image[: packing.active[0]]
        past = {name: first[captions] for name, first in prepared.past.items()}
        steps: list[AdvanceOutput] = []
        for word, attend_t, times in zip(words.unsqueeze(1).split(packing.active), attends, products, strict=True):
            past = {name: part[: len(word)] for name, part in past.items()}
            steps.append(self.advance(word, past, attend_t, times))
            past = steps[-1].past

        def gather(parts: tuple[Tensor, ...]) -> Tensor:
            """Return a tensor of every step at the real positions, (M, ...)."""
            return torch.cat(parts).squeeze(1).index_select(0, packing.rows)

        read = [gather(parts) for parts in zip(*(step.read for step in steps), strict=True)]
        alpha = gather(tuple(step.alpha for step in steps))
        sampled = tuple(step.sampled for step in steps if step.sampled is not None)
        return DecoderOutput(self.logits(tokens[tokens != PAD], *read), alpha, gather(sampled) if sampled else None)


def _expected(sampler: Sampler, alpha: Tensor) -> Tensor:
    return torch.full_like(sampler(alpha), -1)
