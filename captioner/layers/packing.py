"""Captions of a batch as rows, without padding.

Tensor letters: B images, K captions per image, T steps, C captions that are present, M real (not padding) positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from captioner.text.vocabulary import PAD


@dataclass(frozen=True)
class Packing:
    """The rows of a batch of captions: for each step, the captions that still have words, longest captions first.

    A caption has the same row in all its steps, so the rows of a step are the first rows of the previous step.
    Attention computes the captions of an image together. There, images are ordered by their longest caption, and an
    image is computed as long as one of its captions has words.

    Attributes:
        active: for each step, the number of rows; it never increases.
        words: (M,) the input word of each row, step after step.
        image: (M,) the image of each row.
        rows: (M,) the row of each real position, in the order of ``tokens[tokens != PAD]``.
        captions: K.
        order: (B,) the images, longest captions first.
        images: for each step, the number of images that are computed, the first ones of ``order``.
        places: (C,) the index of each row of the first step among the B K captions of the ordered images.
        max_rows: S, the largest number of rows of an image over all steps.
        slots: (M,) the index of each row among the B S rows of the ordered images.
    """

    active: list[int]
    words: Tensor
    image: Tensor
    rows: Tensor
    captions: int
    order: Tensor
    images: list[int]
    places: Tensor
    max_rows: int
    slots: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> Packing:
        """Pack captions (B, K, T), each followed by padding."""
        captions, device = tokens.shape[1], tokens.device
        real = tokens != PAD
        lengths = real.sum(-1)
        longest, total = lengths.amax(-1), lengths.sum(-1)
        steps, max_rows = torch.arange(int(longest.max()), device=device).unsqueeze(1), int(total.max())
        caption = lengths.flatten().argsort(descending=True, stable=True)
        has_word = lengths.flatten()[caption] > steps  # (T, B K)
        active = has_word.sum(1).tolist()
        words = tokens.flatten(0, 1)[caption].t()[: len(steps)][has_word]
        image = (caption // captions).expand_as(has_word)[has_word]
        of_position, step = real.flatten(0, 1).nonzero(as_tuple=True)
        rows = torch.tensor([0, *accumulate(active)], device=device)[step] + caption.argsort()[of_position]
        order = longest.argsort(descending=True, stable=True)
        images, rank = (longest > steps).sum(1).tolist(), order.argsort()
        present = caption[: active[0]]
        places = rank[present // captions] * captions + present % captions
        nth = torch.arange(len(rows), device=device) - (total.cumsum(0) - total)[of_position // captions]
        slots = torch.empty_like(rows).index_copy_(0, rows, rank[of_position // captions] * max_rows + nth)
        return cls(active, words, image, rows, captions, order, images, places, max_rows, slots)

    def scatter(self, rows: Tensor, images: int) -> Tensor:
        """Scatter the rows (rows, 1, ...) of a step to (images, K, ...), zero elsewhere."""
        scattered = rows.new_zeros(images * self.captions, *rows.shape[2:])
        return scattered.index_copy_(0, self.places[: len(rows)], rows.squeeze(1)).unflatten(0, (images, self.captions))

    def gather(self, scattered: Tensor, rows: int) -> Tensor:
        """Gather the rows (rows, 1, ...) of a step from (images, K, ...)."""
        return scattered.flatten(0, 1).index_select(0, self.places[:rows]).unsqueeze(1)

    def by_image(self, rows: Tensor) -> Tensor:
        """Arrange the rows (M, ...) of all steps by image, (B, S, ...), zero after the last row of an image."""
        arranged = rows.new_zeros(len(self.order) * self.max_rows, *rows.shape[1:])
        return arranged.index_copy_(0, self.slots, rows).unflatten(0, (len(self.order), self.max_rows))
