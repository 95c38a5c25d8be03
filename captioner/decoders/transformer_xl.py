"""The Transformer's decoder with relative positions and context (Dai et al. 2019, https://arxiv.org/abs/1901.02860).

Tensor letters as in :mod:`captioner.decoders.transformer`.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from captioner.decoders.decoder import DECODERS, DecoderConfig, DecoderOutput, State
from captioner.decoders.transformer import Transformer, TransformerDecoderConfig
from captioner.layers.segments import Context, StoredContext, context_word_mask
from captioner.layers.transformer import BlockOutput, Rows
from captioner.memory import Memory


class TransformerXLConfig(TransformerDecoderConfig):
    """Sizes of the decoder."""


@DECODERS.register("transformer_xl")
class TransformerXL(Transformer):
    """The :class:`Transformer` decoder with relative positions and attention to previous lines.

    Section 3.3: words have no absolute positions; self-attention adds a term for the distance of two words
    (:mod:`captioner.layers.relative`). Section 3.2: the words of a line also attend to the states of previous lines,
    its context (:mod:`captioner.layers.segments`). Without a context it captions images like any decoder.

    Departure: the paper's model has no cross-attention; here words attend to the memory of their image or line.
    """

    Config: ClassVar[type[DecoderConfig]] = TransformerXLConfig
    reads_half = True
    relative: ClassVar[bool] = True

    def start(self, memory: Memory, past: StoredContext | None = None) -> State:
        """Start one hypothesis per image or line.

        Args:
            memory: of B images or lines.
            past: the words of previous lines, from :meth:`states`.
        """
        state = super().start(memory)
        if past is None:
            return state
        caches = {
            f"cache.{number}": block.words(past.states[number]).unsqueeze(1) for number, block in enumerate(self.blocks)
        }
        return State(caches, {**state.images, "context": past.mask})

    def forward(self, memory: Memory, tokens: Tensor, context: Context | None = None) -> DecoderOutput:
        """Score whole captions.

        Args:
            memory: of B images or lines.
            tokens: (B, K, T); with a context, one translation per line (K = 1).
            context: the words of previous lines.
        """
        return self._scored(memory, tokens, partial(self._in_context, context=context))

    def states(self, memory: Memory, tokens: Tensor, context: Context | None = None) -> Tensor:
        """Return the context of later lines: each block's input (blocks, B, T, S) for the words (B, T) of lines."""
        inputs: list[Tensor] = []
        self._run_blocks(memory, tokens.unsqueeze(1), partial(self._in_context, context=context, inputs=inputs))
        return torch.stack(inputs).squeeze(2)

    def _in_context(
        self,
        number: int,
        x: Tensor,
        rows: Rows,
        memory: Tensor,
        mask: Tensor | None,
        weights: bool,
        *,
        context: Context | None,
        inputs: list[Tensor] | None = None,
    ) -> BlockOutput:
        """Apply a block after a context; append its input (B, K, T, S) to ``inputs``."""
        block, cache, word_mask = self.blocks[number], None, None
        if inputs is not None:
            inputs.append(rows.unpack(x).detach())
        if context is not None:
            cache = block.words(context.block_input(number, rows.unpack(x)[:, 0])).unsqueeze(1)
            word_mask = context_word_mask(context.mask, rows)
        decoded: BlockOutput = block(x, rows, memory, mask, cache=cache, word_mask=word_mask, weights=weights)
        return decoded

    def _word_mask(self, state: State, rows: Rows, length: int) -> Tensor | None:
        context = state.images.get("context")
        return None if context is None else context_word_mask(context, rows, length)
