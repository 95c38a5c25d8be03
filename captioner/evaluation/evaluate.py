"""Captioning a data set's split and scoring it, or scoring what another program said."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from captioner.data.dataset import CaptionData
from captioner.errors import CaptionerError, EvaluationError, ImageError
from captioner.evaluation.scores import DEFAULT_METRICS, Scores, metric_families, score
from captioner.features import FeatureStore
from captioner.pipeline import Captioner


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating captions.

    Attributes:
        captions: the caption of each picture that was scored, by image id, untouched.
        scores: their scores against all references; ``None`` if nobody described these pictures.
        errors: what was left out and why, such as pictures that could not be read.
        seconds: time spent on captioning; zero if the captions were there already.
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
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, str], list[ImageError]]:
    """Caption every picture of ``data`` and return the captions by image id, lower-cased words without punctuation as the model wrote them.

    Args:
        captioner: the model and its search.
        data: a split.
        features: read the pictures' memories from this store rather than their files.
        batch_size: pictures at once.
        progress: called with (done, all).
    """
    captions: dict[str, str] = {}
    errors: list[ImageError] = []
    ids = [photo.image_id for photo in data.photos]
    if features is not None:
        for start in range(0, len(ids), batch_size):
            chosen = ids[start : start + batch_size]
            for image_id, caption in zip(
                chosen, captioner.caption_memory(features.memory(chosen), cut=features.cut), strict=True
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
    batch_size: int = 16,
    per_image: bool = False,
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[dict[str, str]], None] | None = None,
) -> Evaluation:
    """Caption a split and score it; see :func:`generate`.

    Args:
        captioner: the model and its search.
        data: a split; pictures without references are captioned and not scored.
        features: read the pictures' memories from this store rather than their files.
        metrics: see :class:`captioner.evaluation.scores.Scorer`.
        batch_size: pictures at once.
        per_image: also give the scores of every picture.
        progress: called with (done, all).
        keep: called with the captions before they are scored, so that a scorer that fails does not lose them.

    Raises:
        EvaluationError: a metric is unknown, not one picture could be read, or a scorer failed.
    """
    metric_families(metrics)  # an unknown metric is refused before the captioning, not after
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
    """Score captions that are there already, from any program.

    Captions of images that the data do not have, and images without a caption, are each one error; the others are
    scored. An id made of digits is the same with and without zeros in front, as COCO's results have numbers.

    Args:
        captions: image id to caption; see :func:`captioner.evaluation.results.read_results`.
        data: a split with references.
        metrics: see :class:`captioner.evaluation.scores.Scorer`.
        per_image: also give the scores of every picture.
        source: what errors call the captions, for example their file.

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
    said = {_number(image): caption for image, caption in captions.items()}
    known = {_number(photo.image_id): photo.image_id for photo in described}
    found = {image: said[number] for number, image in known.items() if number in said}
    errors: list[CaptionerError] = []
    unknown = [image for image in captions if _number(image) not in known]
    if not found:
        theirs, ours = _some(unknown), _some(list(known.values()))
        raise EvaluationError(
            f"{source}: no caption is of a photo of {data.name}; its captions are of {theirs or 'nothing'}, the photos are {ours}"
        )
    if unknown:
        errors.append(
            EvaluationError(
                f"{source}: {len(unknown):,} captions are of images that {data.name} does not have: {_some(unknown)}"
            )
        )
    missing = [image for image in known.values() if image not in found]
    if missing:
        errors.append(
            EvaluationError(f"{source}: {len(missing):,} of {len(known):,} images have no caption: {_some(missing)}")
        )
    return _scored(found, data, metrics, per_image, errors, 0.0)


def _scored(
    captions: dict[str, str],
    data: CaptionData,
    metrics: Sequence[str],
    per_image: bool,
    errors: list[CaptionerError],
    seconds: float,
) -> Evaluation:
    """Score the captions of those images that people described."""
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
