"""Evaluation of a captioner on a data set, and scores for captions of any program."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from captioner.captioner import Captioner
from captioner.data.annotations import read_captions
from captioner.data.dataset import CaptionData
from captioner.engines.model import torch_engine
from captioner.errors import CaptionerError, EvaluationError, ImageError, count
from captioner.evaluation.metrics import DEFAULT_METRICS, Scorer, metric_families, usable_families
from captioner.evaluation.results import match_images, read_results
from captioner.features import FeatureStore


@dataclass(frozen=True)
class Evaluation:
    """Captions with their scores.

    Attributes:
        scores: the score of all captions together by metric: ``"BLEU-1"`` to ``"BLEU-4"``, ``"METEOR"``, ``"ROUGE-L"``,
            ``"CIDEr"``, ``"SPICE"``. Fractions from 0 to 1; CIDEr from 0 to 10. Empty if no image has a reference.
        per_image: the scores of each image by image id.
        captions: all captions by image id, including those of images without references.
        notes: caveats for readers of the scores, such as a metric that was left out.
        errors: images and captions that were left out.
        seconds: time of captioning; zero for given captions.
        scoring_seconds: time of each family of metrics; see :class:`captioner.evaluation.metrics.Scores`.
    """

    scores: dict[str, float]
    per_image: dict[str, dict[str, float]]
    captions: dict[str, str]
    notes: list[str]
    errors: list[CaptionerError]
    seconds: float
    scoring_seconds: dict[str, float]


def evaluate(
    model: Captioner | str | Path,
    data: CaptionData | str | Path,
    *,
    split: str | None = None,
    images: str | Path | None = None,
    features: FeatureStore | str | Path | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[dict[str, str]], None] | None = None,
) -> Evaluation:
    """Caption the images of a data set and score the captions against all references.

        evaluate("show_attend_tell", "data/flickr8k", split="test", metrics=["CIDEr"]).scores["CIDEr"]

    Args:
        model: a captioner, or a name or folder for :meth:`Captioner.from_pretrained`.
        data: a data set, or its file or folder.
        split: the split to caption. By default a loaded data set is captioned whole, and of a file or folder the only
            split, or else ``dev``.
        images: folder of the images, if they are not where the data's format expects them.
        features: a feature store, or its folder, from which features are read instead of the images.
        metrics: any of ``"BLEU"`` (BLEU-1 to BLEU-4), ``"METEOR"``, ``"ROUGE-L"``, ``"CIDEr"``, ``"SPICE"``.
        batch_size: images in a batch.
        progress: called with (done, total).
        keep: called with the captions before they are scored, for example to save them.

    Raises:
        AnnotationError: the data cannot be read, or the split does not exist.
        CheckpointError: the model cannot be loaded.
        EvaluationError: a metric is unknown or cannot be computed here, no image could be read, or a scorer failed.
        FeatureStoreError: the feature store cannot be read, or another encoder built it.
    """
    metric_families(metrics)  # rejects unknown metrics before captioning
    data = _split_of(data, split, images)
    if any(image.captions for image in data.images):
        usable_families(metrics)
    captioner = model if isinstance(model, Captioner) else Captioner.from_pretrained(model)
    if isinstance(features, str | Path):
        features = torch_engine(captioner.engine, "read features").open_features(features)
    changed = features and features.changed([(image.image_id, image.path) for image in data.images])
    began = time.perf_counter()
    captions, errors = generate(captioner, data, features=features, batch_size=batch_size, progress=progress)
    seconds = time.perf_counter() - began
    if not captions:
        raise EvaluationError(
            f"{data.name}: none of the {len(data.images)} images could be read; the first error: {errors[0]}"
        )
    if keep:
        keep(captions)
    result = _scored(captions, data, metrics, list(errors), seconds)
    return replace(result, notes=[*result.notes, f"{changed}."]) if changed else result


def score(
    captions: Mapping[str, str] | str | Path,
    data: CaptionData | str | Path,
    *,
    split: str | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    source: str | None = None,
) -> Evaluation:
    """Score captions of any program against all references of a data set.

    Captions of unknown images are reported as one error, images without a caption as another; the rest is scored.
    Leading zeros of numeric image ids are ignored, because COCO's results have numbers.

    Args:
        captions: captions by image id, or a file in COCO's results format.
        data: a data set, or its file or folder.
        split: the split that was captioned; see :func:`evaluate`.
        metrics: see :func:`evaluate`.
        source: name of the captions in errors; by default the file's.

    Raises:
        AnnotationError: the data cannot be read, or the split does not exist.
        EvaluationError: the captions cannot be read or matched (:func:`captioner.evaluation.results.match_images`), a
            metric is unknown, or a scorer failed.
    """
    usable_families(metrics)
    if isinstance(captions, str | Path):
        captions, source = read_results(captions), source or str(captions)
    source, data = source or "captions", _split_of(data, split)
    found = match_images(captions, data, source)
    errors: list[CaptionerError] = [error for error in (found.unknown, found.missing) if error is not None]
    return _scored(found.captions, data, metrics, errors)


def generate(
    captioner: Captioner,
    data: CaptionData,
    *,
    features: FeatureStore | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, str], list[ImageError]]:
    """Caption every image of a data set; see :func:`evaluate`.

    Returns:
        The captions by image id as the model wrote them, in lower case without punctuation; and an error for each image
        that could not be read.
    """
    captions: dict[str, str] = {}
    errors: list[ImageError] = []
    if features is not None:
        engine = torch_engine(captioner.engine, "read features")
        missing = [image for image in data.images if image.image_id not in features]
        errors += [ImageError(image.path, f"has no features in {features.folder}") for image in missing]
        ids = [image.image_id for image in data.images if image.image_id in features]
        for start in range(0, len(ids), batch_size):
            chosen = ids[start : start + batch_size]
            found = engine.caption_memory(features.memory(chosen), captioner.search, cut=features.cut)
            captions |= {image: " ".join(caption.tokens) for image, caption in zip(chosen, found, strict=True)}
            if progress:
                progress(min(start + batch_size, len(ids)), len(ids))
        return captions, errors
    ids = [image.image_id for image in data.images]
    results = captioner.stream((image.path for image in data.images), batch_size=batch_size)
    for done, (image, result) in enumerate(zip(ids, results, strict=True), start=1):
        if isinstance(result, ImageError):
            errors.append(result)
        else:
            captions[image] = " ".join(result.tokens)
        if progress:
            progress(done, len(ids))
    return captions, errors


def _split_of(data: CaptionData | str | Path, split: str | None, images: str | Path | None = None) -> CaptionData:
    if not isinstance(data, CaptionData):
        data = read_captions(data, images=images, captionless=True)
        split = split or (next(iter(data.splits)) if len(data.splits) == 1 else "dev")
    return data if split is None else data.split(split)


def _scored(
    captions: dict[str, str],
    data: CaptionData,
    metrics: Sequence[str],
    errors: list[CaptionerError],
    seconds: float = 0.0,
) -> Evaluation:
    references = {
        image.image_id: image.captions for image in data.images if image.captions and image.image_id in captions
    }
    if not references:
        note = f"{data.name}: no image has a reference caption, so nothing is scored."
        return Evaluation({}, {}, captions, [note], errors, seconds, {})
    found = Scorer(references)({image: captions[image] for image in references}, metrics=metrics)
    notes = list(found.notes)
    if unscored := len(captions) - len(references):
        notes.append(f"Not scored, for lack of reference captions: {count(unscored, 'image')}.")
    return Evaluation(found.values, found.per_image, captions, notes, errors, seconds, found.seconds)
