"""The batches that a captioner is trained on, from a feature store or from pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import tee

import torch
from torch import Tensor

from captioner.data.augment import View, crop_maps
from captioner.data.batches import Captions, EncodedCaptions, Sample
from captioner.data.dataset import CaptionedImage
from captioner.data.loader import load_groups
from captioner.data.transform import Transform
from captioner.errors import AnnotationError, ImageError
from captioner.features import FeatureStore
from captioner.memory import Memory
from captioner.training.boxed_words import BoxedWords


@dataclass(frozen=True)
class CaptionBatch:
    """A batch from the loader thread: a memory, or pixels if they must be encoded.

    Attributes:
        captions: the captions of the images.
        memory: their memory, from the feature store.
        pixels: the encoder's input, if there is no memory.
        views: the augmentation of the pixels; see :func:`apply_views`.
    """

    captions: Captions
    memory: Memory | None = None
    pixels: Tensor | None = None
    views: tuple[View, ...] = ()


class TrainingLoader:
    """Loads the batches that the sampler draws.

    Args:
        images: the training images.
        captions: their captions.
        boxed: the boxes of their words, if there are any.
        transform: makes the encoder's input.
        crops: whether the sampler draws views of the images.
        warn: receives a warning of each file that cannot be read.

    Attributes:
        captions: the captions.
    """

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        captions: EncodedCaptions,
        boxed: BoxedWords | None,
        transform: Transform,
        *,
        crops: bool,
        warn: Callable[[str], object],
    ) -> None:
        self._images, self.captions, self._boxed = images, captions, boxed
        self._transform, self._crops, self._warn = transform, crops, warn
        self._unreadable: set[str] = set()  # files already reported

    def from_store(self, samples: Iterable[Sample], store: FeatureStore) -> Iterator[CaptionBatch]:
        """Yield batches with the memories of a feature store."""
        for sample in samples:
            ids = [self._images[image].image_id for image in sample.images]
            memory = store.memory(ids, flipped=sample.flipped) if ids else None
            if memory is not None and sample.views:
                memory = crop_maps(memory, [view.box for view in sample.views])
            yield CaptionBatch(self._with_boxes(sample, from_pixels=False), memory)

    def from_pixels(self, samples: Iterable[Sample]) -> Iterator[CaptionBatch]:
        """Yield batches of pixels, loaded in threads; unreadable images are left out and reported once.

        Raises:
            AnnotationError: none of the images can be read.
        """
        samples, to_load, to_crop = tee(samples, 3)
        groups = ([self._images[image].path for image in sample.images] for sample in to_load)
        crops = ([view.box for view in sample.views] for sample in to_crop) if self._crops else None
        error: ImageError | None = None
        good = False
        for sample, loaded in zip(samples, load_groups(groups, self._transform, crops=crops), strict=True):
            for _, error in loaded.errors:
                if error.source not in self._unreadable:
                    self._unreadable.add(error.source)
                    self._warn(f"left out: {error}")
            flipped = torch.tensor([sample.flipped[row] for row in loaded.positions], dtype=torch.bool)
            pixels = torch.where(flipped.view(-1, 1, 1, 1), loaded.pixels.flip(-1), loaded.pixels)
            kept = sample.rows(loaded.positions)
            good = good or bool(loaded.positions)
            yield CaptionBatch(self._with_boxes(kept, from_pixels=True), pixels=pixels, views=tuple(kept.views))
        if error is not None and not good:
            raise AnnotationError(
                f"none of the training images can be read, the last: {error}; if they are elsewhere, give their folder "
                "as data.images"
            )

    def _with_boxes(self, sample: Sample, *, from_pixels: bool) -> Captions:
        captions = self.captions.batch(sample)
        if self._boxed is None:
            return captions
        return replace(captions, boxed=self._boxed.batch(sample, from_pixels=from_pixels))
