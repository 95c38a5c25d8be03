"""``captioner benchmark``: hold captioners against each other."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import console
from captioner.cli.train import CAPTIONERS

EXAMPLES = """Example: captioner benchmark flickr8k --split test -o benchmark

Example: captioner benchmark dataset_coco.json --split test --model show_attend_tell --model models/mine --batch-size 1 --batch-size 32 -o benchmark

Example: captioner benchmark flickr8k -o contest --train flickr8k_show_attend_tell --train flickr8k_show_tell --set epochs=4"""


def run(
    data: Annotated[Path, typer.Argument(help="The caption data set, a file or folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="The folder of the report.")],
    split: Annotated[str, typer.Option(help="The split to caption.")] = "dev",
    images: Annotated[Path | None, typer.Option(file_okay=False, help="Folder of the pictures, if they are not beside the data.")] = None,
    restval: Annotated[bool, typer.Option("--restval", help="Count COCO's restval photos as train.")] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A shipped model, a model folder, or user/model on the hub; the first is what the others are compared with."),
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(help=f"Train a contestant on the data first, by a YAML file or a shipped recipe ({', '.join(CAPTIONERS)}); may be repeated."),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="With --train: change a setting of every contestant.")
    ] = None,
    features: Annotated[list[Path] | None, typer.Option(help="A feature store to caption from; each model takes the one of its encoder.")] = None,
    metrics: Annotated[list[str] | None, typer.Option(help="BLEU, METEOR, ROUGE-L, CIDEr, SPICE, joined by commas; all if not given.")] = None,
    beam: console.Beam = None,
    length_normalisation: console.LengthNormalisation = None,
    device: console.Device = "auto",
    batch_size: Annotated[list[int] | None, typer.Option(min=1, help="Photos at once when timing; may be repeated.", show_default="1 and 16")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="How often each model is timed; 0 times nothing.")] = 30,
    resamples: Annotated[int, typer.Option(min=100, help="Of the intervals and tests.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling.")] = 0,
    shown: Annotated[int, typer.Option("--photos", min=0, help="How many photos the page shows.")] = 12,
) -> None:
    """Hold captioners against each other on the same photos: quality with intervals and p-values, time, memory.

    Without --model and --train, the shipped captioners. The folder gets table.md (ready for a paper), benchmark.json (everything), plot.png (quality
    against cost) and photos.html (where the models differ most).

    Photos that cannot be read are reported on stderr and left out; the exit code is then 1.
    """
    if changes and not train:
        raise typer.BadParameter("it changes how contestants are trained; give --train too, or leave it out", param_hint="--set")
    from captioner import checkpoint
    from captioner.data.annotations import read_captions

    part = read_captions(data, images=images).split(split, restval=restval)
    trained = [_train(recipe, changes or [], data, images, output) for recipe in train or ()]
    contestants = [*(model or ()), *map(str, trained)] or list(checkpoint.shipped())

    from captioner.benchmark.run import TABLE, benchmark
    from captioner.evaluation.scores import DEFAULT_METRICS

    with console.progress("Benchmark") as show:
        result = benchmark(
            contestants,
            part,
            output,
            split=split,
            features=features or (),
            metrics=[name.strip() for names in metrics or () for name in names.split(",") if name.strip()] or DEFAULT_METRICS,
            device=device,
            search=console.settings(width=beam, length_normalisation=length_normalisation),
            batches=sorted(set(batch_size or (1, 16))),
            rounds=rounds,
            resamples=resamples,
            seed=seed,
            shown=shown,
            progress=lambda _, done, total: show(done, total),
        )
    typer.echo((output / TABLE).read_text(encoding="utf-8"))
    console.note(f"{output}: {', '.join(sorted(file.name for file in output.iterdir() if file.is_file()))}")
    failures = console.Failures()
    for problem in result.quality.unreadable:
        failures(problem)
    failures.exit()


def _train(recipe: str, changes: list[str], data: Path, images: Path | None, output: Path) -> Path:
    """Train a contestant, or go on with an interrupted training, and return the folder of its best model under the recipe's name."""
    from captioner.training.fit import run as train
    from captioner.training.loop import STATE

    folder = output / "runs" / Path(recipe).stem
    told = [f"data.path={jsonlib.dumps(str(data))}"] + ([f"data.images={jsonlib.dumps(str(images))}"] if images else [])
    return train(recipe, [*told, *changes], output=folder, resume=(folder / STATE).exists(), console=console.messages)
