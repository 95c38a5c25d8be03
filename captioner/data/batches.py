"""Batches of captioned images for training.

Tensor letters: B images, K captions an image, T words of the longest caption with ``<bos>``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from captioner.data.augment import AugmentConfig, View, draw_view
from captioner.data.dataset import CaptionedImage
from captioner.text.vocabulary import PAD, Vocabulary

T = TypeVar("T")


class Weights(NamedTuple):
    """The size of a process's part of a batch, over the mean of all parts.

    The mean over processes of their weighted means is the mean over the whole batch. A single process has ones.
    """

    images: float = 1.0
    captions: float = 1.0
    words: float = 1.0


UNIT_WEIGHTS = Weights()


class BoxedWord(NamedTuple):
    """A word that names an object with boxes.

    Attributes:
        image: its row in the batch.
        caption: its caption among those of the image.
        word: its position in the caption, from 0.
        boxes: (Q, 4) the visible boxes of the objects, relative xyxy.
    """

    image: int
    caption: int
    word: int
    boxes: np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Captions:
    """The captions of B images as token indices.

    Attributes:
        inputs: (B, K, T) the decoder's input: ``<bos> w_1 ... w_n``, then padding. A row of padding is an absent
            caption.
        targets: (M,) the expected token at each real position, in the order of ``inputs[inputs != PAD]``.
        images: the indices of the B images among all training images, for objectives that need more of them.
        weights: the weights of means over these captions if several processes share a batch.
        boxed: the words that name objects with boxes, if attention is supervised.
    """

    inputs: Tensor
    targets: Tensor
    images: tuple[int, ...] = ()
    weights: Weights = UNIT_WEIGHTS
    boxed: tuple[BoxedWord, ...] = ()

    @property
    def captions(self) -> int:
        """The number of captions."""
        return int((self.inputs[..., 0] != PAD).sum())

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The numbers of images, captions and words."""
        return len(self.inputs), self.captions, len(self.targets)

    def to(self, device: torch.device) -> Captions:
        """Move them to a device."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    @classmethod
    def collate(cls, captions: Sequence[Sequence[Sequence[int]]], images: Sequence[int] = ()) -> Captions:
        """Pad the encoded captions (``<bos>`` to ``<eos>``) of B images."""
        k = max((len(image) for image in captions), default=0)
        t = max((len(caption) for image in captions for caption in image), default=1)
        padded = torch.full((len(captions), max(k, 1), max(t, 2)), PAD)
        for i, image in enumerate(captions):
            for j, caption in enumerate(image):
                padded[i, j, : len(caption)] = torch.tensor(caption)
        inputs, targets = padded[..., :-1].clone(), padded[..., 1:]
        inputs[targets == PAD] = PAD
        return cls(inputs, targets[inputs != PAD], tuple(images))


@dataclass(frozen=True)
class Sample:
    """The sample of a batch: images, whether each is mirrored, their captions, and their views if augmented."""

    images: list[int]
    flipped: list[bool]
    captions: list[list[int]]
    views: list[View] = field(default_factory=list)

    def rows(self, rows: Sequence[int]) -> Sample:
        """Return some images of the batch."""
        return Sample(
            [self.images[i] for i in rows],
            [self.flipped[i] for i in rows],
            [self.captions[i] for i in rows],
            [self.views[i] for i in rows] if self.views else [],
        )


class Sampler:
    """Draws the batches of an epoch; they depend only on the seed and the epoch.

    Every image is drawn once an epoch, with at most ``per_image`` of its captions at random.
    """

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        *,
        batch_size: int,
        per_image: int,
        flips: bool,
        seed: int,
        augment: AugmentConfig | None = None,
    ) -> None:
        self.images, self.batch_size, self.per_image, self.flips, self.seed = images, batch_size, per_image, flips, seed
        self.augment = augment if augment is not None and augment.active else None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.images) // self.batch_size)

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Sample]:
        """Draw the batches of epoch ``number``, without the first ``skip``."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + number)
        order = torch.randperm(len(self.images), generator=generator).tolist()
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            flipped = [False] * len(chosen)
            if self.flips:
                flipped = (torch.rand(len(chosen), generator=generator) < 0.5).tolist()
            counts = (len(self.images[index].captions) for index in chosen)
            captions = [torch.randperm(n, generator=generator)[: self.per_image].tolist() for n in counts]
            views = [draw_view(self.augment, generator) for _ in chosen] if self.augment else []
            if start >= skip * self.batch_size:
                yield Sample(chosen, flipped, captions, views)


class EncodedCaptions:
    """All captions of a data set as token indices, encoded once."""

    def __init__(self, images: Sequence[CaptionedImage], vocabulary: Vocabulary, *, max_words: int) -> None:
        self.numbers = [
            [vocabulary.encode(caption, max_words=max_words) for caption in image.captions] for image in images
        ]

    def batch(self, sample: Sample) -> Captions:
        """Collate the captions of a sample."""
        captions = [
            [self.numbers[p][c] for c in chosen] for p, chosen in zip(sample.images, sample.captions, strict=True)
        ]
        return Captions.collate(captions, sample.images)


def prefetch(items: Iterator[T], *, ahead: int = 2) -> Iterator[T]:
    """Draw items in a thread, up to ``ahead`` before their use; an exception in the thread is raised here."""
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="captioner-prefetch") as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, items, end))
                yield item
        finally:  # also when the caller stops early
            pool.shutdown(cancel_futures=True)
