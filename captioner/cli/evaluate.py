"""``captioner evaluate``: score a captioner or a translator on a data set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from captioner import files
from captioner.cli import bars, complete, console, options, outputs, score_report
from captioner.errors import CaptionerError
from captioner.machine.packages import require

EXAMPLES = """Example: captioner evaluate show_attend_tell flickr8k --split test

Example: captioner evaluate models/mine dataset_coco.json --split test --beam 3 --metrics BLEU,CIDEr \
--output-captions captions.json

Example: captioner evaluate show_attend_tell+transformer flickr8k

Example: captioner evaluate models/mine image_info_test2014.json --images test2014 \
--output-captions captions_test2014_mine_results.json

Example: captioner evaluate models/en_de multi30k --split val"""


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete.scored,
            help="A shipped model, a model folder, user/model on the Hugging Face hub, or an ensemble of them as A+B.",
        ),
    ],
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="The caption data set, a file or folder; for a translator the folder with val.en, ..."
        ),
    ],
    *,
    data: options.Data,
    features: Annotated[Path | None, options.data_option(help="Read features from this store, not the images.")] = None,
    search: options.Search,
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    engine: options.EngineName = "auto",
    scoring: options.Scoring,
    output_captions: Annotated[
        Path | None,
        options.output_file(
            help="Write the captions as a COCO results file, for COCO's test server too; translations as JSON."
        ),
    ] = None,
) -> None:
    """Caption a split of a data set and score the captions against all of its references.

    A translator is scored against the file of the target language, by default of val, with sacrebleu: BLEU and chrF.

    An ensemble is scored as one captioner; with --features, all its members must have the encoder of the store.

    Images without references are captioned for --output-captions, but not scored.

    The table is in percent, as in papers; JSON has plain scores.

    Images that cannot be read are reported on stderr and the rest is scored; the exit code is then 1. Malformed records
    alone do not change it.
    """
    outputs.check_outputs(
        [path], output_captions=output_captions, output_scores=scoring.output_scores, per_image=scoring.per_image
    )
    metrics, settings = options.metrics(scoring.metrics), search.settings()
    console.note(f"evaluating {model} on {path}")
    from captioner import store

    alone = len(store.members(model)) == 1
    located = [store.locate(model, kind=None)] if alone else store.locate_captioners(model)
    if alone and store.kind_of(located[0]) == store.TRANSLATOR:
        options.refuse(
            f"it is for captioners, and {model} is a translator; leave it out",
            images=data.images,
            restval=data.restval,
            strict=data.strict,
            features=features,
            metrics=scoring.metrics,
            per_image=scoring.per_image,
        )
        record, title, problems = _evaluate_translator(
            located[0],
            path,
            data.split or "val",
            settings,
            device=device,
            batch_size=batch_size,
            output=output_captions,
        )
        return score_report.report(model, path, title, record, problems, scoring)
    part = data.part(data.read(path, captionless=True))
    from captioner.evaluation.metrics import usable_families

    if any(image.captions for image in part.images):
        usable_families(metrics)
    elif output_captions is None:
        raise CaptionerError(
            f"{part.name}: its images have no captions to score against; write the model's with --output-captions"
        )

    from captioner.evaluation.results import coco_results, write_results

    if output_captions is not None:
        coco_results({image.image_id: "" for image in part.images})  # refuses ids that cannot be written

    from captioner import Captioner
    from captioner.evaluation.evaluate import evaluate

    captioner = Captioner.from_pretrained(store.join(located), device=device, engine=engine, **settings)
    with bars.progress("Captioning") as progress:
        result = evaluate(
            captioner,
            part,
            features=features,
            metrics=metrics,
            batch_size=batch_size,
            progress=progress,
            keep=None if output_captions is None else partial(write_results, output_captions),
        )
    if output_captions is not None:
        console.wrote(output_captions, console.count(len(result.captions), "caption"))
    score_report.report_captions(
        model,
        path,
        part,
        result,
        scoring,
        images_per_second=round(len(result.captions) / result.seconds, 2),
        search=captioner.search.model_dump(),
    )


def _evaluate_translator(
    model: Path, data: Path, split: str, search: dict[str, Any], *, device: str, batch_size: int, output: Path | None
) -> tuple[dict[str, Any], str, Sequence[object]]:
    """Translate a split and score the translations; return the record, a description of the data and the problems."""
    require("scoring translations", "sacrebleu")
    from captioner import Translator
    from captioner.translation.bleu import evaluate_translation
    from captioner.translation.pairs import read_parallel

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
        console.wrote(output, console.count(len(rows), "translation"))
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
    return record, f"{text.name}, {config.source} to {config.target}", text.problems
