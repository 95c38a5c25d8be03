"""Captioning a split of a data set and scoring the captions, or scoring those of another program."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from captioner.base import Captioner
from captioner.data.dataset import CaptionData
from captioner.errors import CaptionerError, EvaluationError, ImageError
from captioner.evaluation.metrics import DEFAULT_METRICS, Scores, metric_families, score
from captioner.features import FeatureStore
from captioner.pipeline import in_torch


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating captions.

    Attributes:
        captions: the captions by image id, unchanged, those of pictures without references included.
        scores: their scores against all references; ``None`` if no picture has any.
        errors: what was left out and why, such as pictures that could not be read.
        seconds: time spent on captioning; zero if the captions were given.
    """

    captions: dict[str, str]
    scores: Scores | None
    errors: list[CaptionerError]
    seconds: float


def generate(
    captioner: Captioner,
    data: CaptionData,
    *,
    features: FeatureStore | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, str], list[ImageError]]:
    """Caption every picture of ``data``.

    Args:
        captioner: the model and its search.
        data: a split.
        features: read the pictures' memories from this store instead of their files.
        batch_size: number of pictures in a batch.
        progress: called with (done, total).

    Returns:
        The captions by image id, in lower case without punctuation, as the model wrote them; and an error for each
        picture that could not be read.
    """
    captions: dict[str, str] = {}
    errors: list[ImageError] = []
    ids = [photo.image_id for photo in data.photos]
    if features is not None:
        model = in_torch(captioner, "read features")
        for start in range(0, len(ids), batch_size):
            chosen = ids[start : start + batch_size]
            for image_id, caption in zip(
                chosen, model.caption_memory(features.memory(chosen), cut=features.cut), strict=True
            ):
                captions[image_id] = " ".join(caption.tokens)
            if progress:
                progress(min(start + batch_size, len(ids)), len(ids))
        return captions, errors
    results = captioner.stream((photo.path for photo in data.photos), batch_size=batch_size)
    for done, (image_id, result) in enumerate(zip(ids, results, strict=True), start=1):
        if isinstance(result, ImageError):
            errors.append(result)
        else:
            captions[image_id] = " ".join(result.tokens)
        if progress:
            progress(done, len(ids))
    return captions, errors


def evaluate(
    captioner: Captioner,
    data: CaptionData,
    *,
    features: FeatureStore | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    batch_size: int = 32,
    per_image: bool = False,
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[dict[str, str]], None] | None = None,
) -> Evaluation:
    """Caption a split and score it; see :func:`generate`.

    Args:
        captioner: the model and its search.
        data: a split; pictures without references are captioned and not scored.
        features: read the pictures' memories from this store instead of their files.
        metrics: see :class:`captioner.evaluation.metrics.Scorer`.
        batch_size: number of pictures in a batch.
        per_image: also return the scores of every picture.
        progress: called with (done, total).
        keep: called with the captions before they are scored, so that they are not lost if a scorer fails.

    Raises:
        EvaluationError: a metric is unknown, not one picture could be read, or a scorer failed.
    """
    metric_families(metrics)  # refuses an unknown metric before captioning
    began = time.perf_counter()
    captions, errors = generate(captioner, data, features=features, batch_size=batch_size, progress=progress)
    seconds = time.perf_counter() - began
    if not captions:
        raise EvaluationError(
            f"{data.name}: not one of {len(data.photos)} pictures could be read; the first error: {errors[0]}"
        )
    if keep:
        keep(captions)
    return _scored(captions, data, metrics, per_image, list(errors), seconds)


def evaluate_captions(
    captions: Mapping[str, str],
    data: CaptionData,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    per_image: bool = False,
    source: str = "captions",
) -> Evaluation:
    """Score given captions, from any program.

    Captions of images that are not in the data are reported as one error, images without a caption as another; the
    rest is scored. Leading zeros of an id made of digits are ignored, because COCO's results have numbers.

    Args:
        captions: image id to caption; see :func:`captioner.evaluation.results.read_results`.
        data: a split with references.
        metrics: see :class:`captioner.evaluation.metrics.Scorer`.
        per_image: also return the scores of every picture.
        source: name of the captions in errors, for example their file.

    Raises:
        EvaluationError: no caption is of an image of the data, the data have no references, a metric is unknown, or a
            scorer failed.
    """
    metric_families(metrics)
    described = [photo for photo in data.photos if photo.captions]
    if not described:
        raise EvaluationError(
            f"{data.name}: its photos have no captions by people to score against; give data that have some"
        )
    by_number = {_number(image): caption for image, caption in captions.items()}
    known = {_number(photo.image_id): photo.image_id for photo in described}
    matches = {image: by_number[number] for number, image in known.items() if number in by_number}
    errors: list[CaptionerError] = []
    unknown = [image for image in captions if _number(image) not in known]
    if not matches:
        raise EvaluationError(
            f"{source}: no caption is of a photo of {data.name}; its captions are of {_some(unknown) or 'nothing'}, "
            f"the photos are {_some(list(known.values()))}"
        )
    if unknown:
        errors.append(
            EvaluationError(
                f"{source}: {len(unknown):,} captions are of images that {data.name} does not have: {_some(unknown)}"
            )
        )
    missing = [image for image in known.values() if image not in matches]
    if missing:
        errors.append(
            EvaluationError(f"{source}: {len(missing):,} of {len(known):,} images have no caption: {_some(missing)}")
        )
    return _scored(matches, data, metrics, per_image, errors, 0.0)


def _scored(
    captions: dict[str, str],
    data: CaptionData,
    metrics: Sequence[str],
    per_image: bool,
    errors: list[CaptionerError],
    seconds: float,
) -> Evaluation:
    """Score the captions of the images that have references."""
    references = {
        photo.image_id: photo.captions for photo in data.photos if photo.captions and photo.image_id in captions
    }
    if not references:
        return Evaluation(captions, None, errors, seconds)
    scores = score({image: captions[image] for image in references}, references, metrics=metrics, per_image=per_image)
    if len(references) < len(captions):
        note = f"{len(captions) - len(references):,} photos have no captions by people and were not scored."
        scores = replace(scores, notes=[*scores.notes, note])
    return Evaluation(captions, scores, errors, seconds)


def _number(image: str) -> str:
    return str(int(image)) if image.isascii() and image.isdigit() else image


def _some(images: Sequence[str]) -> str:
    return ", ".join(map(repr, images[:3])) + (", ..." if len(images) > 3 else "")
