"""Segment recurrence (Dai et al. 2019, Transformer-XL, https://arxiv.org/abs/1901.02860).

A segment is a line of a text. Section 3.2: block n attends to the outputs h of block n - 1 for the words of the segment
and, without gradient (SG), of the previous segments:

    h~ = [SG(h of the previous segments), h],  q = h W_q,  k = h~ W_k,  v = h~ W_v

The states of the previous segments depend on earlier ones in turn, so each block extends the dependency by one context.
Distances (:mod:`captioner.layers.relative`) continue across segments, so the words of a context end right before the
line, and padding comes first.

Departures: the length of the context is a number of lines, not of words, since texts are translated line by line. In
training, the states of earlier lines are those of the same step (:class:`BatchContext`); the paper keeps those of the
previous step, which were computed with older weights.

Tensor letters: B lines, N previous lines of each, T words of the longest line, C words of the longest context, S model
size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.layers.transformer import EncoderBlock, Rows


@dataclass(frozen=True)
class Context(ABC):
    """The words of previous lines that the lines of a batch attend to.

    Attributes:
        mask: (B, C) true at words; padding comes first.
    """

    mask: Tensor

    @abstractmethod
    def block_input(self, block: int, x: Tensor) -> Tensor:
        """Return a block's input for these words, (B, C, S), without gradient.

        Args:
            block: the index of the block.
            x: (B, T, S) its input for the words of the lines themselves.
        """


@dataclass(frozen=True)
class StoredContext(Context):
    """Words of earlier batches, by their stored states.

    Attributes:
        states: (blocks, B, C, S) the input of each block.
    """

    states: Tensor

    @classmethod
    def of(cls, lines: Sequence[Sequence[Tensor]]) -> StoredContext | None:
        """Make the context of B lines; ``None`` if no line has one.

        Args:
            lines: for each, the states (blocks, words, S) of its previous lines, the nearest last.
        """
        rows = [torch.cat(list(before), dim=1) if before else None for before in lines]
        longest = max((row.shape[1] for row in rows if row is not None), default=0)
        if not longest:
            return None
        first = next(row for row in rows if row is not None)
        states = first.new_zeros(first.shape[0], len(rows), longest, first.shape[2])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=first.device)
        for number, row in enumerate(rows):
            if row is not None:
                states[:, number, longest - row.shape[1] :] = row.detach()
                mask[number, longest - row.shape[1] :] = True
        return cls(mask, states)

    def block_input(self, block: int, x: Tensor) -> Tensor:
        """Return the stored states."""
        return self.states[block]


@dataclass(frozen=True)
class BatchContext(Context):
    """Words of other lines of the same batch: a block computes all lines of a text at once.

    The result equals that of line after line with :class:`StoredContext`, since a block reads only outputs of the
    previous block.

    Attributes:
        line: (B, C) the line of each word.
        word: (B, C) its position in the line.
    """

    line: Tensor
    word: Tensor

    @classmethod
    def of(cls, previous: Tensor, lengths: Tensor) -> BatchContext | None:
        """Make the context of B lines; ``None`` if no line has one.

        Args:
            previous: (B, N) from :func:`previous_lines`.
            lengths: (B,) words of each line.
        """
        words = lengths[previous].where(previous >= 0, 0)
        ends = words.cumsum(1)
        longest = int(ends.max()) if ends.numel() else 0
        if not longest:
            return None
        position = torch.arange(-longest, 0, device=lengths.device) + ends[:, -1:]  # in the context of each line
        mask = position >= 0
        index = torch.searchsorted(ends, position, right=True).clamp(max=previous.shape[1] - 1)
        word = position - (ends - words).gather(1, index)
        return cls(mask, previous.gather(1, index).where(mask, 0), word.where(mask, 0))

    def block_input(self, block: int, x: Tensor) -> Tensor:
        """Gather the words' states from those of the batch."""
        return x.detach()[self.line, self.word]


def with_context(mask: Tensor | None, context: Context | None, words: int) -> Tensor | None:
    """Prepend the mask of a context (B, C) to that of the words of the lines (B, T); ``None`` is all true."""
    if context is None:
        return mask
    return F.pad(context.mask, (0, words), value=True) if mask is None else torch.cat([context.mask, mask], dim=1)


def context_word_mask(context: Tensor, rows: Rows, length: int | None = None) -> Tensor:
    """Return the argument ``word_mask`` of :meth:`DecoderBlock.forward`: all words but the padding of the context.

    Args:
        context: (B, C) true at words of the context.
        rows: of the captions.
        length: L, the words of the context and of the captions so far; by default C + T.

    Returns:
        (B * K, 1, 1, L) bool.
    """
    words = context.shape[1]
    length = words + rows.shape[2] if length is None else length
    return F.pad(context, (0, length - words), value=True).repeat_interleave(rows.shape[1], 0)[:, None, None]


def previous_lines(starts: Sequence[bool], reach: int) -> Tensor:
    """Return the indices (B, N) of the previous lines of each line of a batch, the nearest last; -1 where none is left.

    Args:
        starts: for each of B lines, whether it begins a text; the first line always does.
        reach: N, the length of the context in lines.
    """
    number = torch.arange(len(starts)).unsqueeze(1)
    begins = torch.tensor(starts, dtype=torch.bool)
    begins[:1] = True
    first = number.where(begins.unsqueeze(1), 0).cummax(0).values
    previous = number - torch.arange(reach, 0, -1)
    return previous.where(previous >= first, -1)


class SegmentEncoderBlock(EncoderBlock):
    """A block of an encoder of lines, whose words also attend to the previous lines."""

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        shape: tuple[int, ...] | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Apply the block to words.

        Args:
            x: (B, N, S).
            mask: (B, 1, 1, C + N), true where a word may be attended to.
            shape: (N,).
            context: (B, C, S) the input of this block for the words of the context, which the convolution leaves out.
        """
        if context is None:
            return super().forward(x, mask, shape)
        previous = self.around_attention.sublayer_input(self.half_step(context))

        def attend(y: Tensor) -> Tensor:
            sequence = torch.cat([previous, y], dim=1)
            return self.attend(y, sequence, mask, (sequence.shape[1],))

        return self.sublayers(x, attend, mask, (x.shape[1],))
