"""Words of training captions that name objects with boxes, for the supervision of attention.

Letters in shapes: B images, K captions per image, T words, M real positions, N regions or cells, Q boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioner.caption import Array
from captioner.data.batches import BoxedWord, Sample
from captioner.data.dataset import CaptionedImage
from captioner.data.transform import WHOLE, Box, Transform
from captioner.errors import AnnotationError
from captioner.evaluation.nouns import Mention, Nouns
from captioner.evaluation.object_boxes import Boxes, read_boxes, turned_images
from captioner.text.vocabulary import tokenize


@dataclass(frozen=True)
class _Image:
    """An image with boxes: the objects, and the classes that each of its captions names."""

    boxes: Boxes
    mentions: tuple[tuple[Mention, ...], ...]


class BoxedWords:
    """Finds the words of batches that name a class with boxes in their image.

    Args:
        images: the training images.
        boxes: the objects of some of them by image id; see :func:`read_boxes`.
        transform: the encoder's; the part of an image that it keeps is visible.
        max_words: captions are cut after this many words.

    Attributes:
        images: the images with such a word, by their index in the training images.
        words: number of these words in all captions.
    """

    def __init__(
        self, images: Sequence[CaptionedImage], boxes: Mapping[str, Boxes], transform: Transform, *, max_words: int
    ) -> None:
        self.transform = transform
        nouns = Nouns({name for known in boxes.values() for name in (*known.boxes, *known.absent)})
        self.images: dict[int, _Image] = {}
        for number, image in enumerate(images):
            if (image_boxes := boxes.get(image.image_id)) is None:
                continue
            mentions = tuple(
                tuple(
                    mention
                    for mention in nouns(tokenize(caption))
                    if mention.end <= max_words and mention.name in image_boxes.boxes
                )
                for caption in image.captions
            )
            if any(mentions):
                self.images[number] = _Image(image_boxes, mentions)
        self.words = sum(
            mention.end - mention.start
            for image in self.images.values()
            for caption in image.mentions
            for mention in caption
        )

    @classmethod
    def read(
        cls,
        path: Path,
        images: Sequence[CaptionedImage],
        transform: Transform,
        *,
        max_words: int,
        warn: Callable[[str], object] = lambda text: None,
    ) -> BoxedWords:
        """Read boxes in COCO's format, whose image ids are those of the training images.

        ``warn`` is called with each image whose boxes are turned; they are not used.

        Raises:
            AnnotationError: the file cannot be read, or no caption names an object that is boxed in its image.
        """
        boxes = read_boxes(path)
        for image_id, error in turned_images((image for image in images if image.image_id in boxes), boxes).items():
            warn(f"data.boxes: left out: {error}")
            del boxes[image_id]
        found = cls(images, boxes, transform, max_words=max_words)
        if not found.images:
            common = sum(image.image_id in boxes for image in images)
            why = "no caption names an object with a box" if common else "their image ids must be the same"
            raise AnnotationError(
                f"data.boxes: {path}: has boxes for {common:,} of {len(images):,} training images; {why}"
            )
        return found

    def batch(self, sample: Sample, *, from_pixels: bool) -> tuple[BoxedWord, ...]:
        """Return the words of a batch that name boxed objects, with the visible part of the boxes.

        Args:
            sample: the batch.
            from_pixels: whether crops are taken from the image, before the transform, or from stored maps.
        """
        return tuple(self._words(sample, from_pixels))

    def _words(self, sample: Sample, from_pixels: bool) -> Iterator[BoxedWord]:
        for row, number in enumerate(sample.images):
            if (image := self.images.get(number)) is None:
                continue
            crop = sample.views[row].box if sample.views else WHOLE
            visible: dict[str, Array] = {}
            for column, caption in enumerate(sample.captions[row]):
                for start, end, name in image.mentions[caption]:
                    if name not in visible:
                        visible[name] = self._visible(image.boxes, name, crop, sample.flipped[row], from_pixels)
                    if len(visible[name]):
                        yield from (BoxedWord(row, column, word, visible[name]) for word in range(start, end))

    def _visible(self, objects: Boxes, name: str, crop: Box, flipped: bool, from_pixels: bool) -> Array:
        """Return the visible part of a class's boxes, (Q, 4) relative to the encoder's input."""
        boxes, (width, height) = objects.boxes[name], objects.size
        if from_pixels:
            boxes = within(boxes, crop)
            x0, y0, x1, y1 = crop
            width, height = max(1, round(width * (x1 - x0))), max(1, round(height * (y1 - y0)))
        boxes = within(boxes, self.transform.visible_box((width, height)))
        if flipped:
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        return boxes if from_pixels else within(boxes, crop)


def within(boxes: Array, part: Box) -> Array:
    """Return the visible part of boxes (Q, 4) in a part of the image, relative to it; hidden boxes are left out."""
    corner, size = np.array(part[:2] * 2), np.array([part[2] - part[0], part[3] - part[1]] * 2)
    boxes = np.clip((boxes - corner) / size, 0, 1)
    visible: Array = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    return visible
