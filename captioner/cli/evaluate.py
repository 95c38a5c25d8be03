"""``captioner evaluate``: score a model's captions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from captioner import files
from captioner.cli import console

EXAMPLES = """Example: captioner evaluate show_attend_tell flickr8k --split test

Example: captioner evaluate models/mine dataset_coco.json --split test --beam 3 --metrics BLEU,CIDEr --output-captions captions.json"""


def run(
    model: Annotated[str, typer.Argument(help="A shipped model, a model folder, or user/model on the Hugging Face hub.")],
    data: Annotated[Path, typer.Argument(help="The caption data set, a file or folder.")],
    split: Annotated[str, typer.Option(help="The split to caption.")] = "dev",
    images: Annotated[Path | None, typer.Option(file_okay=False, help="Folder of the pictures, if they are not beside the data.")] = None,
    restval: Annotated[bool, typer.Option("--restval", help="Count COCO's restval photos as train.")] = False,
    beam: console.Beam = None,
    length_normalisation: console.LengthNormalisation = None,
    features: Annotated[Path | None, typer.Option(help="Read features from this store and not the pictures.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures captioned at once.")] = 32,
    device: console.Device = "auto",
    metrics: Annotated[
        list[str] | None, typer.Option(help="BLEU, METEOR, ROUGE-L, CIDEr, SPICE, joined by commas; all of them if not given.")
    ] = None,
    output_captions: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the captions as a COCO results file.")] = None,
    output_scores: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the scores as JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Caption a split of a data set and score the captions against all of its references.

    The table is in percent, as in papers; JSON has plain scores.

    Pictures that cannot be read are reported on stderr and not scored; the exit code is then 1.
    """
    from captioner.data.annotations import read_captions

    part = read_captions(data, images=images).split(split, restval=restval)

    from captioner import Captioner
    from captioner.data.features import FeatureStore
    from captioner.evaluation.evaluate import evaluate
    from captioner.evaluation.results import write_results
    from captioner.evaluation.scores import DEFAULT_METRICS

    chosen = tuple(name.strip() for names in metrics or () for name in names.split(",") if name.strip()) or DEFAULT_METRICS
    captioner = Captioner.from_pretrained(model, device=device, **console.settings(width=beam, length_normalisation=length_normalisation))
    store = FeatureStore(features, encoder=captioner.model.encoder) if features else None
    keep = None if output_captions is None else partial(write_results, output_captions)
    with console.progress("Captioning") as progress:
        result = evaluate(captioner, part, features=store, metrics=chosen, batch_size=batch_size, progress=progress, keep=keep)
    speed = len(result.captions) / result.seconds
    record = {
        "model": model,
        "data": str(data),
        "split": split,
        "images": len(result.captions),
        "images_per_second": round(speed, 2),
        "search": captioner.search.model_dump(),
        "scores": result.scores.values,
        "notes": result.scores.notes,
        "unreadable": [str(error) for error in result.errors],
    }
    if output_scores:
        files.write_json(output_scores, record)
    if json:
        typer.echo(console.json_text(record, indent=2))
    else:
        _print_table(f"{model} on {part.name}, {split}", {name: result.scores.percent(name) for name in result.scores.values})
        typer.echo(f"{len(result.captions):,} images, {speed:.1f} images/s")
    for line in result.scores.notes:
        console.note(line)
    failures = console.Failures()
    for error in result.errors:
        failures(error)
    failures.exit()


def _print_table(title: str, percent: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("metric", title=Text(title))
    table.add_column("percent", justify="right")
    for name, value in percent.items():
        table.add_row(name, f"{value:.1f}")
    Console(highlight=False).print(table)
