"""The four evaluations of ``captioner evaluate``: a captioner, given captions, grounding, and a translator."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from captioner import files
from captioner.cli import console, scores
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.data.dataset import CaptionData
    from captioner.evaluation.evaluate import Evaluation


class Result(NamedTuple):
    """The result of an evaluation.

    Attributes:
        data: description of the data, for the table's title.
        record: what is printed and written.
        problems: what could not be used.
    """

    data: str
    record: dict[str, Any]
    problems: Sequence[object]


def of_captioner(
    model: str,
    data: CaptionData,
    search: dict[str, Any],
    *,
    device: str,
    batch_size: int,
    features: Path | None,
    metrics: tuple[str, ...],
    output: Path | None,
    per_image: Path | None,
) -> Result:
    """Caption a split with a captioner and score the captions."""
    if output is None and not any(photo.captions for photo in data.photos):
        raise CaptionerError(
            f"{data.name}: its photos have no captions to score against; write the model's with --output-captions"
        )

    from captioner import Captioner
    from captioner.evaluation.evaluate import evaluate
    from captioner.evaluation.metrics import DEFAULT_METRICS
    from captioner.evaluation.results import write_results
    from captioner.pipeline import in_torch

    captioner = Captioner.from_pretrained(model, device=device, **search)
    store = in_torch(captioner, "read features").open_features(features) if features else None
    with console.progress("Captioning") as progress:
        result = evaluate(
            captioner,
            data,
            features=store,
            metrics=metrics or DEFAULT_METRICS,
            batch_size=batch_size,
            progress=progress,
            keep=None if output is None else partial(write_results, output),
        )
    about = {
        "images_per_second": round(len(result.captions) / result.seconds, 2),
        "search": captioner.search.model_dump(),
    }
    return _scored(result, data, about, per_image)


def of_captions(captions: Path, data: CaptionData, *, metrics: tuple[str, ...], per_image: Path | None) -> Result:
    """Score the captions in a COCO results file."""
    from captioner.evaluation.evaluate import score
    from captioner.evaluation.metrics import DEFAULT_METRICS

    result = score(captions, data, metrics=metrics or DEFAULT_METRICS)
    return _scored(result, data, {}, per_image)


def _scored(result: Evaluation, data: CaptionData, about: dict[str, Any], per_image: Path | None) -> Result:
    """Record the scores of captions, and write those of every picture if requested."""
    split = data.photos[0].split
    record = {
        "split": split,
        "images": len(result.captions),
        **about,
        "scoring_seconds": result.scoring_seconds,
        "scores": result.scores,
        "notes": result.notes,
        "unreadable": [str(error) for error in result.errors],
    }
    if per_image and result.scores:
        rows = [
            {"image_id": image, "caption": result.captions[image], **values}
            for image, values in result.per_image.items()
        ]
        scores.write_rows(per_image, rows)
    return Result(f"{data.name}, {split}", record, result.errors)


def of_grounding(
    model: str,
    boxes: Path,
    data: CaptionData,
    search: dict[str, Any],
    *,
    heads: str,
    device: str,
    batch_size: int,
) -> Result:
    """Compare a captioner's attention with boxes."""
    from dataclasses import asdict

    from captioner import Captioner
    from captioner.evaluation.grounding import ground

    captioner = Captioner.from_pretrained(model, device=device, **search)
    with console.progress("Grounding") as progress:
        grounding = ground(captioner, boxes, data, attention=heads, batch_size=batch_size, progress=progress)
    split = data.photos[0].split
    record = {
        "split": split,
        "images": grounding.photos,
        "boxes": str(boxes),
        "search": captioner.search.model_dump(),
        "attention": heads,
        "grounding": {"generated": asdict(grounding.generated), "references": asdict(grounding.references)},
        "notes": [],
        "unreadable": [str(error) for error in grounding.errors],
    }
    return Result(f"{data.name}, {split}, boxes of {boxes.name}", record, grounding.errors)


def of_translator(
    model: Path,
    data: Path,
    search: dict[str, Any],
    *,
    split: str,
    device: str,
    batch_size: int,
    output: Path | None,
) -> Result:
    """Translate a split with a translator and score the translations."""
    from captioner import Translator
    from captioner.translation.pairs import read_parallel
    from captioner.translation.scores import evaluate_translation

    translator = Translator.from_pretrained(model, device=device, **search)
    config = translator.model.config
    text = read_parallel(data, split, source=config.source, target=config.target)
    began = time.perf_counter()
    found, translations = evaluate_translation(translator, text, batch_size=batch_size)
    seconds = time.perf_counter() - began
    if output:
        rows = [
            {"source": pair.source, "translation": translation.text, "reference": pair.target}
            for pair, translation in zip(text.pairs, translations, strict=True)
        ]
        files.write_json(output, rows)
    record = {
        "split": split,
        "languages": [config.source, config.target],
        "sentences": len(translations),
        "sentences_per_second": round(len(translations) / seconds, 2),
        "search": translator.search.model_dump(),
        "scores": {name: score.value for name, score in found.scores.items()},
        "intervals": {name: (score.low, score.high) for name, score in found.scores.items()},
        "signatures": found.signatures,
        "notes": [],
        "unreadable": [str(problem) for problem in text.problems],
    }
    return Result(f"{text.name}, {config.source} to {config.target}", record, text.problems)
