"""Whether attention is right: does a model look at the dog when it says "dog"?

As in Liu et al. 2017 (Attention correctness in neural image captioning, https://arxiv.org/abs/1605.09553), the
attention of words that name a class of objects is compared with the boxes of that class in the image:

- mass: the attention inside the union of the boxes, ``sum_i alpha_i |place_i and boxes| / |place_i|`` (their attention
  correctness);
- pointing: whether the centre of the most attended place lies in one of the boxes (the pointing game, Zhang et al.
  2016, https://arxiv.org/abs/1608.00507, without its tolerance of 15 pixels);

each against two baselines that know nothing of the image: one attends evenly to all places, and the attention of the
other is a Gaussian around the middle of what is seen, where photographers put their subjects. The baselines attend to
the places of the model that they are compared with, so that a model gets no credit for regions that a detector placed
on objects.

Departures: boxes instead of masks; a phrase of several words ("hot dog") has their mean attention, whereas the paper
takes the best word, which would favour the model over baselines that have one try.

Letters in shapes: T words, N places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captioner.base import Captioner
from captioner.caption import HEADS, MEAN, Array
from captioner.data.annotations import read_captions
from captioner.data.dataset import CaptionData, Photo
from captioner.data.loader import ImageLoader
from captioner.errors import AnnotationError, EvaluationError, ImageError
from captioner.evaluation.bootstrap import DEFAULT_RESAMPLES, Interval, intervals
from captioner.evaluation.nouns import Nouns
from captioner.evaluation.object_boxes import Boxes, Scene, read_boxes
from captioner.evaluation.sums import Sums, ratios
from captioner.heads import look_again
from captioner.pipeline import TorchCaptioner, of_one_model
from captioner.text.vocabulary import tokenize

GROUNDING_METRICS = ("pointing", "mass", "pointing, even", "mass, even", "pointing, centre", "mass, centre")
GAINS = ("pointing over even", "mass over even", "pointing over centre", "mass over centre")


@dataclass(frozen=True)
class Words:
    """How well the attention of captions' words matches what the words name.

    Attributes:
        words: number of words counted: those whose class has a box in the part of the image that the model sees.
        photos: number of images with such a word.
        absent: number of words that name a class that the image does not have; they are not counted.
        scores: fractions by name, with 95 % intervals over images: :data:`GROUNDING_METRICS`, and :data:`GAINS`, the
            model's paired differences from a baseline.
        classes: for each class the number of words, and the model's pointing and mass.
    """

    words: int
    photos: int
    absent: int
    scores: dict[str, Interval]
    classes: dict[str, tuple[int, float, float]]


@dataclass(frozen=True)
class Grounding:
    """The result of :func:`ground`.

    Attributes:
        generated: for the captions that the model writes.
        references: for those that people wrote, which the model reads word by word (teacher forcing).
        photos: number of images that were read.
        errors: images that could not be read.
    """

    generated: Words
    references: Words
    photos: int
    errors: list[ImageError] = field(default_factory=list)


def ground(
    captioner: Captioner,
    instances: str | Path,
    captions: str | Path | CaptionData,
    images: str | Path | None = None,
    *,
    attention: str = MEAN,
    batch_size: int = 8,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Grounding:
    """Measure whether a model looks at what it names.

    Args:
        captioner: the model, which must attend to places in the image, and its search. The encoder runs at full
            precision.
        instances: boxes as COCO's instances.
        captions: captions of the same image ids, as :func:`captioner.data.annotations.read_captions` takes them, or
            already read.
        images: folder of the images, if they are not where the captions' format has them.
        attention: of a Transformer: ``mean`` over its heads, ``rollout``, or one head as ``BLOCK.HEAD``; see
            :func:`captioner.heads.look_again`.
        batch_size: number of images in a batch.
        resamples: number of resamples for the intervals.
        seed: seed of the resampling.
        progress: called with (done, total).

    Raises:
        AnnotationError: the boxes or the captions cannot be read, or have no image in common.
        EvaluationError: the model does not attend to places in an image, or not one image can be read.
        CaptionerError: the model does not have the requested attention.
    """
    if not captioner.attends:
        raise EvaluationError(
            "this model does not attend, so there is nothing to compare with boxes; take one that does"
        )
    if attention == HEADS:
        raise EvaluationError("attention: all heads at once cannot be compared with boxes; give one as BLOCK.HEAD")
    captioner = of_one_model(captioner, "measure attention")
    captioner.check(attention)
    boxes = read_boxes(instances)
    data = captions if isinstance(captions, CaptionData) else read_captions(captions, images=images)
    photos = [photo for photo in data.photos if photo.image_id in boxes]
    if not photos:
        raise AnnotationError(
            f"{data.name}: none of its {len(data.photos):,} images has boxes in {instances}; "
            "their image ids must be the same"
        )
    nouns = Nouns({name for known in boxes.values() for name in (*known.boxes, *known.absent)})
    generated, references = _Tally(nouns), _Tally(nouns)
    errors: list[ImageError] = []
    loader = ImageLoader([photo.path for photo in photos], captioner.transform, batch_size=batch_size, workers=2)
    done = 0
    for batch in loader:
        errors.extend(error for _, error in batch.errors)
        if len(batch):
            chosen = [photos[position] for position in batch.positions]
            _measure(
                captioner,
                attention,
                batch.pixels,
                chosen,
                [boxes[photo.image_id] for photo in chosen],
                batch.places,
                generated,
                references,
            )
        done += len(batch) + len(batch.errors)
        if progress:
            progress(done, len(photos))
    if len(errors) == len(photos):
        raise EvaluationError(
            f"{data.name}: not one of {len(photos)} images could be read; the first error: {errors[0]}"
        )
    return Grounding(
        generated.words(resamples, seed), references.words(resamples, seed), len(photos) - len(errors), errors
    )


@torch.inference_mode()
def _measure(
    captioner: TorchCaptioner,
    kind: str,
    pixels: Tensor,
    photos: Sequence[Photo],
    boxes: Sequence[Boxes],
    seen: Sequence[tuple[float, float, float, float]],
    generated: _Tally,
    references: _Tally,
) -> None:
    """Caption a batch of images, read their references, and tally both."""
    model = captioner.model
    memory = model(pixels.to(captioner.device))
    places = memory.places_in_picture()
    if places is None:
        raise EvaluationError(
            "the places that this model attends to do not lie in an image, so there is nothing to compare with boxes"
        )
    real = np.ones(places.shape[:2], dtype=bool) if memory.mask is None else memory.mask.cpu().numpy()
    scenes = [
        Scene(corners[exists], known, part)
        for corners, exists, known, part in zip(places.double().cpu().numpy(), real, boxes, seen, strict=True)
    ]
    written = captioner.caption_memory(memory, attention=kind)
    for row, (scene, caption) in enumerate(zip(scenes, written, strict=True)):
        assert caption.attention is not None
        generated.add(scene, [(caption.tokens, caption.attention.astype(np.float64)[:, real[row]])])

    tokenized = [[words for caption in photo.captions if (words := tokenize(caption))] for photo in photos]
    numbers = [[list(map(model.vocabulary.number, words)) for words in captions] for captions in tokenized]
    read = look_again(model.decoder, memory, numbers, kind)
    for row, (scene, captions) in enumerate(zip(scenes, tokenized, strict=True)):
        weights = [one.double().numpy()[:, real[row]] for one in read[row]]
        references.add(scene, list(zip(captions, weights, strict=True)))


class _Tally:
    """Adds up, image by image, the scores of the words that name classes."""

    def __init__(self, nouns: Nouns) -> None:
        self.nouns = nouns
        self.rows: list[Array] = []
        self.absent = 0
        self.classes: dict[str, Array] = defaultdict(lambda: np.zeros(3))

    def add(self, scene: Scene, captions: Sequence[tuple[Sequence[str], Array]]) -> None:
        """Count an image: its captions' words and their attention (T, N)."""
        row = np.zeros(len(GROUNDING_METRICS) + 1)
        for words, attention in captions:
            for start, end, name in self.nouns(words):
                self.absent += name in scene.boxes.absent
                cover = scene.cover(name)
                if cover is None:
                    continue
                share, hit, middle = cover
                weights = attention[start:end].mean(0)
                scores = (
                    hit[weights.argmax()],
                    weights @ share,
                    hit.mean(),
                    share.mean(),
                    middle,
                    scene.centre @ share,
                    1.0,
                )
                row += np.array(scores, dtype=np.float64)
                self.classes[name] += np.array([1.0, *scores[:2]])
        if row[-1]:
            self.rows.append(row)

    def words(self, resamples: int, seed: int) -> Words:
        """Return the scores of the words counted so far."""
        counted = int(sum(row[-1] for row in self.rows))
        scores = {}
        if self.rows:
            scores = intervals(
                [Sums((*GROUNDING_METRICS, *GAINS), np.stack(self.rows), _with_gains)], resamples=resamples, seed=seed
            )
        each = {name: (int(n), float(hits / n), float(mass / n)) for name, (n, hits, mass) in self.classes.items()}
        order = sorted(each, key=lambda name: (-each[name][0], name))
        return Words(counted, len(self.rows), self.absent, scores, {name: each[name] for name in order})


def _with_gains(sums: Array) -> Array:
    """Divide sums (..., 7) by the number of words and add the differences of :data:`GAINS`: (..., 10)."""
    shares = ratios(sums)
    model = shares[..., [0, 1]]
    return np.concatenate([shares, model - shares[..., [2, 3]], model - shares[..., [4, 5]]], axis=-1)
