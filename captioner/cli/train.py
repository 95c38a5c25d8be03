"""``captioner train``: train a model from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import console

EXAMPLES = """Example: captioner train recipe.yaml --output models/mine

Example: captioner train flickr8k_show_attend_tell --set model.decoder.hidden=256 --set seed=2 --output models/small

Example: captioner train multi30k_attention --set data.path=data/multi30k --output models/en_de"""


def run(
    config: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A shipped recipe, which captioner recipes lists, or a YAML file.",
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", file_okay=False, help="The folder of the run.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
) -> None:
    """Train a captioner or a translator and print the folder of the best model.

    A YAML file is a translator's if its model has a source or target language, or an encoder of text.
    """
    from captioner.processes import Processes
    from captioner.settings import override
    from captioner.training import fit
    from captioner.training.recipe import read_settings
    from captioner.translation.train import is_translators, train_translation

    translator = is_translators(override(read_settings(config), changes or []))
    train = train_translation if translator else fit.run
    best = train(config, changes=changes or [], output=output, resume=resume, console=console.messages)
    if Processes.started().first:
        typer.echo(best)
