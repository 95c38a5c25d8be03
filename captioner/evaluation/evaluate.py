"""Captioning a data set's split and scoring it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from captioner.captioner import Captioner
from captioner.data.captions import CaptionData
from captioner.data.features import FeatureStore
from captioner.errors import EvaluationError, ImageError
from captioner.evaluation.scores import DEFAULT_METRICS, Scores, metric_families, score


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a model.

    Attributes:
        captions: the generated caption of each picture that could be read, by image id, untouched.
        scores: their scores against all references.
        errors: the pictures that could not be read; they are not scored.
        seconds: time spent on captioning, without scoring.
    """

    captions: dict[str, str]
    scores: Scores
    errors: list[ImageError]
    seconds: float


def generate(
    captioner: Captioner,
    data: CaptionData,
    *,
    features: FeatureStore | None = None,
    batch_size: int = 32,
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
            for image_id, caption in zip(chosen, captioner.caption_memory(features.memory(chosen), cut=features.cut), strict=True):
                captions[image_id] = " ".join(caption.tokens)
            if progress:
                progress(min(start + batch_size, len(ids)), len(ids))
        return captions, errors
    results = captioner.stream((photo.path for photo in data.photos), batch_size=min(batch_size, 16))
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
    metrics: tuple[str, ...] = DEFAULT_METRICS,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[dict[str, str]], None] | None = None,
) -> Evaluation:
    """Caption a split and score it; see :func:`generate`.

    ``keep`` is called with the captions before they are scored, so that a scorer that fails does not lose them.

    Raises:
        EvaluationError: a metric is unknown, not one picture could be read, or a scorer failed.
    """
    metric_families(metrics)  # an unknown metric is refused before the captioning, not after
    began = time.perf_counter()
    captions, errors = generate(captioner, data, features=features, batch_size=batch_size, progress=progress)
    seconds = time.perf_counter() - began
    if not captions:
        raise EvaluationError(f"{data.name}: not one of {len(data.photos)} pictures could be read; the first error: {errors[0]}")
    if keep:
        keep(captions)
    references = {photo.image_id: photo.captions for photo in data.photos if photo.image_id in captions}
    return Evaluation(captions, score(captions, references, metrics=metrics), errors, seconds)
