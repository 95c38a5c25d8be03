"""``captioner recipes``: list and print the recipes of training."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from captioner.cli import complete, options, streams

_SENTENCE = r"\.\s+(?=[A-Z])"  # where the next one begins

EXAMPLES = """Example: captioner recipes

Example: captioner recipes flickr8k_show_attend_tell > mine.yaml"""


def run(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]",
            autocompletion=complete.recipes,
            help="Print this recipe or YAML file, with every setting and its meaning.",
        ),
    ] = None,
    changes: options.Changes = None,
    json: options.Json = False,
) -> None:
    """List the shipped recipes, or print one as YAML.

    A printed recipe has all settings, defaults included, each with its meaning. --json lists all recipes with their
    facts, for example published scores.
    """
    if name is None and changes:
        raise typer.BadParameter("give the recipe that it changes", param_hint="--set")
    if name is not None:
        options.check_recipe(name, changes or [])
    from captioner.training.recipe import RECIPES, explained, summary
    from captioner.translation.train import read_recipe

    if name is not None:
        config = read_recipe(name, changes or [])
        typer.echo(config.model_dump_json(indent=2) if json else explained(config))
        return
    summaries = {recipe: summary(file) for recipe, file in RECIPES.items()}
    if json:
        streams.show_json(summaries, indent=2)
        return
    width = max(map(len, summaries))
    for recipe, text in summaries.items():
        typer.echo(f"{recipe:<{width}}  {re.split(_SENTENCE, text, maxsplit=1)[0].rstrip('.')}.")
