"""``captioner score``: score the captions of any program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import options, outputs, score_report

EXAMPLES = """Example: captioner score results.json dataset_coco.json --split test

Example: captioner score results.json flickr8k --split dev --metrics BLEU,CIDEr --per-image each.csv"""


def run(
    captions: Annotated[
        Path, typer.Argument(metavar="CAPTIONS", dir_okay=False, help="The captions, as a COCO results file.")
    ],
    path: options.DataPath,
    *,
    data: options.Data,
    scoring: options.Scoring,
) -> None:
    """Score captions of any program against all references of a data set's split.

    The table is in percent, as in papers; JSON has plain scores.

    Captions of unknown images and images without a caption are reported on stderr and the rest is scored; the exit code
    is then 1. Malformed records alone do not change it.
    """
    outputs.check_outputs([captions, path], output_scores=scoring.output_scores, per_image=scoring.per_image)
    metrics = options.metrics(scoring.metrics)
    from captioner.evaluation.metrics import usable_families

    usable_families(metrics)
    part = data.part(data.read(path, captionless=True))
    from captioner.evaluation.results import read_results

    given = read_results(captions)  # reports a wrong file before torch is imported
    from captioner.evaluation.evaluate import score

    result = score(given, part, metrics=metrics, source=str(captions))
    score_report.report_captions(captions, path, part, result, scoring)
