"""``captioner benchmark``: compare captioners."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import complete, console

EXAMPLES = """Example: captioner benchmark --data flickr8k --split test

Example: captioner benchmark show_attend_tell models/mine --data dataset_coco.json --split test \
--batch-size 1 --batch-size 32 --latex -o benchmark

Example: captioner benchmark show_attend_tell transformer show_attend_tell+transformer --data flickr8k

Example: captioner benchmark --data flickr8k --train flickr8k_show_attend_tell --train flickr8k_show_tell \
--set epochs=4 --seeds 0,1,2 -o contest"""


def run(
    data: Annotated[Path, typer.Option("--data", help="The caption data set, a file or folder.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete.models,
            help="Shipped models, model folders, user/model on the hub, or ensembles of them as A+B; the others are "
            "compared with the first.",
            show_default="the shipped models",
        ),
    ] = None,
    members: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete.models,
            help="A member of one more contestant, the ensemble of all that are given so; may be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", file_okay=False, callback=console.writable, help="The folder of the report."),
    ] = Path("benchmark"),
    split: Annotated[
        str | None, typer.Option(help="The split to caption.", show_default="dev, or all photos of data without splits")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the pictures, if they are not next to the data.")
    ] = None,
    restval: Annotated[bool, typer.Option("--restval", help="Count COCO's restval photos as train.")] = False,
    strict: console.Strict = False,
    train: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete.recipes,
            help="Train a contestant on the data first, by a shipped recipe (captioner recipes) or a YAML file; "
            "may be repeated.",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="With --train: change a setting of every contestant, for example epochs=4; may be repeated.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="With --train: train each contestant once with each of these seeds, for example 0,1,2.",
            show_default="its own",
        ),
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(help="A feature store to caption from; each model uses that of its encoder; may be repeated."),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="BLEU, METEOR, ROUGE-L, CIDEr, SPICE, separated by commas; all if not given."),
    ] = None,
    beam: console.Beam = None,
    length_normalisation: console.LengthNormalisation = None,
    min_words: console.MinWords = None,
    max_words: console.MaxWords = None,
    block_ngram: console.BlockNgram = None,
    device: console.Device = "auto",
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Photos in a batch when timing; may be repeated.", show_default="1 and 16"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="How often each model is timed; 0 times nothing.")] = 30,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples for the intervals and tests.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0,
    shown: Annotated[int, typer.Option("--photos", min=0, help="Number of photos on the page.")] = 12,
    latex: Annotated[
        bool, typer.Option("--latex", help="Also write the tables in LaTeX, for the package booktabs.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Caption and time again, ignoring what the folder's cache has; trained models are kept."
        ),
    ] = False,
) -> None:
    """Compare captioners on the same photos: quality with intervals and p-values, time and memory.

    The folder gets table.md, table.tex with --latex, benchmark.json, plot.png (quality against cost) and photos.html
    (where the models differ most).

    After an interruption, the same command resumes: captions and timings are kept in the folder's cache, trained models
    in its runs.

    With --train and --seeds, each recipe's mean and standard deviation over seeds are reported, and the recipes' means
    are tested against each other.

    Models and photos that cannot be used are reported on stderr and left out; the exit code is then 1. Malformed
    records alone do not change it.
    """
    for option, given in (("--set", changes), ("--seeds", seeds)):
        if given and not train:
            raise typer.BadParameter(
                "it is about how contestants are trained; give --train too, or leave it out", param_hint=option
            )
    seed_list = None if seeds is None else _seeds(seeds, changes or [])
    for recipe in train or ():
        console.check_recipe(recipe, changes or [])
    chosen = console.metrics(metrics)
    search = console.search(beam, length_normalisation, min_words, max_words, block_ngram)
    from captioner.data.annotations import read_captions

    whole = read_captions(data, images=images, strict=strict)
    console.left_out(whole)
    if split is None:
        split = "all" if list(whole.splits) == ["all"] else "dev"
    part = whole.split(split, restval=restval)
    training = whole.split("train", restval=restval) if "train" in whole.splits else None

    from captioner import assets, files
    from captioner.benchmark.benchmark import CACHE, LATEX, PAGE, PLOT, RECORD, TABLE, benchmark
    from captioner.benchmark.listener import Listener
    from captioner.benchmark.training import train as train_all
    from captioner.errors import EvaluationError
    from captioner.evaluation.metrics import DEFAULT_METRICS

    together = console.ensemble(members)
    contestants = [*(models or ()), *([together] if together else [])]
    if not contestants and not train:
        contestants = list(assets.shipped())
    failures = console.Failures()
    with files.only_one(output, error=EvaluationError, work="benchmarks"), _Bars() as bars:
        listener = Listener(bars, console.note, failures)
        trained = train_all(
            train or (),
            output / "runs",
            data=data,
            images=images,
            restval=restval,
            changes=changes or (),
            seeds=seed_list,
            device=device,
            listener=listener,
            console=console.messages,
        )
        benchmark(
            [*contestants, *trained],
            part,
            output,
            training=training,
            split=split,
            features=features or (),
            metrics=chosen or DEFAULT_METRICS,
            device=device,
            search=search,
            batches=sorted(set(batch_size or (1, 16))),
            rounds=rounds,
            resamples=resamples,
            seed=seed,
            shown=shown,
            latex=latex,
            fresh=fresh,
            listener=listener,
        )
    typer.echo((output / TABLE).read_text(encoding="utf-8"))
    names = ", ".join(name for name in sorted((TABLE, LATEX, RECORD, PLOT, PAGE)) if (output / name).is_file())
    console.note(f"{output}: {names}; captions and timings in {output / CACHE}")
    failures.exit()


def _seeds(text: str, changes: list[str]) -> list[int]:
    """Read a list of seeds."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise typer.BadParameter(
            f"{text!r} is not a list of distinct whole numbers from 0 on, separated by commas, such as 0,1,2",
            param_hint="--seeds",
        )
    if any(change.partition("=")[0].strip() == "seed" for change in changes):
        raise typer.BadParameter("seed is set by --seeds; leave one of them out", param_hint="--set")
    return [int(part) for part in parts]


class _Bars(ExitStack):
    """Progress bars, one after the other, each with the title of its phase."""

    title: str | None = None

    def __call__(self, title: str, done: int, total: int | None) -> None:
        if title != self.title:
            self.close()
            self.show, self.title = self.enter_context(console.progress(title)), title
        self.show(done, total)
