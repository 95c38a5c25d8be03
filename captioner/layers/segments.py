"""Segment recurrence: attending to the segments before (Dai et al. 2019, Transformer-XL, https://arxiv.org/abs/1901.02860).

A segment is a line of a text. Section 3.2: block n reads what block n - 1 made of the words of its own segment, h, and
of those of the segments before, without gradient (SG):

    h~ = [SG(h of the segments before), h],  q = h W_q,  k = h~ W_k,  v = h~ W_v

The states of the segments before had, in their turn, segments before them, so that what the last block knows reaches as
many times further back as there are blocks. Distances (:mod:`captioner.layers.relative`) go on across segments, so the
words that a line attends to, its context, lie side by side right before it: padding comes first.

Departure: the memory's length is a number of lines and not of words, as lines are what a text is translated by.

Tensor letters: B lines, N lines before each, T words of the longest line, C words of the longest context, S model size.
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
    """The words that the lines of a batch attend to besides their own.

    Attributes:
        mask: (B, C) true where there is a word; those of a line come last.
    """

    mask: Tensor

    @abstractmethod
    def before(self, block: int, x: Tensor) -> Tensor:
        """Return what a block reads of these words, (B, C, S), without gradient.

        Args:
            block: its number, from zero.
            x: (B, T, S) what it reads of the lines' own words.
        """


@dataclass(frozen=True)
class Past(Context):
    """Words that were read before, as the blocks read them.

    Attributes:
        states: (blocks, B, C, S).
    """

    states: Tensor

    @classmethod
    def of(cls, lines: Sequence[Sequence[Tensor]]) -> Past | None:
        """Make the context of B lines.

        Args:
            lines: for each, the states (blocks, words, S) of the lines before it, the nearest last.

        Returns:
            The context; ``None`` if no line has one.
        """
        rows = [torch.cat(list(before), dim=1) if before else None for before in lines]
        longest = max((row.shape[1] for row in rows if row is not None), default=0)
        if not longest:
            return None
        some = next(row for row in rows if row is not None)
        states = some.new_zeros(some.shape[0], len(rows), longest, some.shape[2])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=some.device)
        for number, row in enumerate(rows):
            if row is not None:
                states[:, number, longest - row.shape[1] :] = row.detach()
                mask[number, longest - row.shape[1] :] = True
        return cls(mask, states)

    def before(self, block: int, x: Tensor) -> Tensor:
        """See :meth:`Context.before`."""
        return self.states[block]


@dataclass(frozen=True)
class Neighbours(Context):
    """The words of other lines of the same batch: all lines of a text go through a block at once.

    What a block gives is the same as line after line with :class:`Past`, since it reads of the lines before only what
    the block before it made of them.

    Attributes:
        line: (B, C) the line of each word.
        word: (B, C) its place in the line.
    """

    line: Tensor
    word: Tensor

    @classmethod
    def of(cls, previous: Tensor, lengths: Tensor) -> Neighbours | None:
        """Find the context of B lines.

        Args:
            previous: (B, N) which lines of the batch come before each, the nearest last; -1 where there is none.
            lengths: (B,) words of each line.

        Returns:
            The context; ``None`` if no line has one.
        """
        words = lengths[previous].where(previous >= 0, 0)
        ends = words.cumsum(1)
        longest = int(ends.max()) if ends.numel() else 0
        if not longest:
            return None
        place = torch.arange(-longest, 0, device=lengths.device) + ends[:, -1:]  # among the words of the context
        mask = place >= 0
        which = torch.searchsorted(ends, place, right=True).clamp(max=previous.shape[1] - 1)
        word = place - (ends - words).gather(1, which)
        return cls(mask, previous.gather(1, which).where(mask, 0), word.where(mask, 0))

    def before(self, block: int, x: Tensor) -> Tensor:
        """See :meth:`Context.before`."""
        return x.detach()[self.line, self.word]


def with_context(mask: Tensor | None, context: Context | None, words: int) -> Tensor | None:
    """Put the mask of a context (B, C) before that of the lines' own words (B, T); ``None`` is a mask of all."""
    if context is None:
        return mask
    return F.pad(context.mask, (0, words), value=True) if mask is None else torch.cat([context.mask, mask], dim=1)


def seen_words(context: Tensor, rows: Rows, length: int | None = None) -> Tensor:
    """Return which words the captions of lines may attend to, for :meth:`DecoderBlock.forward`.

    Args:
        context: (B, C) true where there is a word of the context.
        rows: of the captions.
        length: of the context and the captions' own words so far; by default C + T.

    Returns:
        (B * K, 1, 1, L) true for every word but the padding of the context.
    """
    words = context.shape[1]
    length = words + rows.shape[2] if length is None else length
    return F.pad(context, (0, length - words), value=True).repeat_interleave(rows.shape[1], 0)[:, None, None]


def previous_lines(starts: Sequence[bool], reach: int) -> Tensor:
    """Say which lines come before each line of a batch, for :meth:`Neighbours.of`.

    Args:
        starts: for each of B lines, whether it begins a text, so that nothing comes before it; the first one does.
        reach: N, how many lines before a line it attends to.

    Returns:
        (B, N) their numbers, the nearest last; -1 where there is none.
    """
    number = torch.arange(len(starts)).unsqueeze(1)
    begins = torch.tensor(starts, dtype=torch.bool)
    begins[:1] = True
    first = number.where(begins.unsqueeze(1), 0).cummax(0).values
    previous = number - torch.arange(reach, 0, -1)
    return previous.where(previous >= first, -1)


class SegmentEncoderBlock(EncoderBlock):
    """A block of an encoder whose places, the words of lines, also attend to those of the lines before."""

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        shape: tuple[int, ...] | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Refine words; see :meth:`EncoderBlock.forward`.

        Args:
            x: (B, N, S).
            mask: (B, 1, 1, C + N), true where a word may be attended to.
            shape: (N,).
            context: (B, C, S) what this block read of the words before these. The convolution does not reach them.
        """
        if context is None:
            return super().forward(x, mask, shape)
        before = self.around_attention.before(self.begin(context))

        def attend(y: Tensor) -> Tensor:
            read = torch.cat([before, y], dim=1)
            return self.attend(y, read, mask, (read.shape[1],))

        return self.sublayers(x, attend, mask, (x.shape[1],))
