"""Captions of different lengths, packed: at every step only the images that still have a word to write take part.

Tensor letters: B images, K captions per image, T steps, R packed rows (the sum over steps of active images times K), M
real positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from captioner.text.vocabulary import PAD


def packed_offsets(active: list[int], captions: int) -> list[int]:
    """Return the first packed row of every step, and at the end their number R."""
    return [0, *accumulate(images * captions for images in active)]


@dataclass(frozen=True)
class Packing:
    """The packed rows of a batch of captions.

    The rows of step t are the K captions of each of its active images; the steps follow one another.

    Attributes:
        order: (B,) the images, longest captions first, so that the active ones are always the first rows.
        active: for each step how many images, in this order, still have a word to write; it never rises, and step 0
            has all.
        words: (R,) the input word of every packed row.
        rows: (M,) the packed row of every real position, in the order of ``tokens[tokens != PAD]``.
    """

    order: Tensor
    active: list[int]
    words: Tensor
    rows: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> Packing:
        """Pack captions (B, K, T), each followed by padding."""
        real = tokens != PAD
        longest = real.sum(-1).amax(-1)
        steps = int(longest.max())
        order = torch.argsort(longest, descending=True, stable=True)
        working = longest[order].clamp(min=1).unsqueeze(0) > torch.arange(steps, device=tokens.device).unsqueeze(1)
        active = working.sum(1).tolist()
        words = tokens[order].permute(2, 0, 1)[:steps][working].flatten()
        captions = tokens.shape[1]
        starts = torch.tensor(packed_offsets(active, captions), device=tokens.device)
        image, caption, step = real.nonzero(as_tuple=True)
        return cls(order, active, words, starts[step] + order.argsort()[image] * captions + caption)
