"""``captioner ground``: measure whether attention lies on the objects that words name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import bars, console, options, outputs, score_report

EXAMPLES = """Example: captioner ground show_attend_tell captions_val2017.json instances_val2017.json

Example: captioner ground transformer dataset_coco.json instances_val2014.json --split val --heads rollout"""


def run(
    model: options.Model,
    path: options.DataPath,
    boxes: Annotated[
        Path,
        typer.Argument(
            metavar="BOXES", dir_okay=False, help="The boxes, as a COCO instances file with the same image ids."
        ),
    ],
    *,
    data: options.Data,
    heads: Annotated[
        str,
        typer.Option(
            help="The attention of a Transformer that is measured: mean, rollout (all blocks together), or one head as "
            "BLOCK.HEAD, for example 2.3."
        ),
    ] = "mean",
    search: options.Search,
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    output: options.Output,
) -> None:
    """Compare a captioner's attention with boxes, for its own captions and for the references.

    The table is in percent; JSON has plain scores.

    Images that cannot be read are reported on stderr and left out; the exit code is then 1. Malformed records alone do
    not change it.
    """
    outputs.check_outputs([path, boxes], output_scores=output.output_scores)
    settings = search.settings()
    console.note(f"comparing the attention of {model} with {boxes}")
    from captioner import store

    located = store.join(store.locate_captioners(model))
    part = data.part(data.read(path, captionless=True))
    from captioner import Captioner
    from captioner.evaluation.bootstrap import FEWEST
    from captioner.evaluation.grounding import ground

    captioner = Captioner.from_pretrained(located, device=device, **settings)
    with bars.progress("Grounding") as progress:
        result = ground(captioner, boxes, part, attention=heads, batch_size=batch_size, progress=progress)
    split, counted = part.images[0].split, min(result.generated.photos, result.references.photos)
    record = {
        "split": split,
        "images": result.images,
        "boxes": str(boxes),
        "search": captioner.search.model_dump(),
        "attention": heads,
        "grounding": {"generated": asdict(result.generated), "references": asdict(result.references)},
        "notes": [f"Intervals from fewer than {FEWEST} images are too narrow."] if counted < FEWEST else [],
        "unreadable": [str(error) for error in result.errors],
    }
    title = f"{part.name}, {split}, boxes of {boxes.name}"
    score_report.report(model, path, title, record, result.errors, output)
