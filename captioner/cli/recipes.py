"""``captioner recipes``: list and print the recipes of training."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli import complete, console, options, streams
from captioner.files import json_text

if TYPE_CHECKING:
    from captioner.training.recipe import RunConfig

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
    from captioner.training.recipe_files import IMPORT, read_recipe, recipes, summary

    if name is not None:
        from captioner.training.recipe_text import commented_yaml

        settings, config = read_recipe(name, changes or []), _config(name, changes or [])
        code = {IMPORT: settings[IMPORT]} if IMPORT in settings else {}
        if json:
            streams.show_json({**code, **config.model_dump(mode="json")}, indent=2)
        else:
            typer.echo("".join(f"{key}: {json_text(files)}\n" for key, files in code.items()) + commented_yaml(config))
        return
    summaries = {recipe: summary(file) for recipe, file in recipes().items()}
    if json:
        streams.show_json(summaries, indent=2)
        return
    from rich.table import Column
    from rich.text import Text

    table = console.table(Column("recipe", no_wrap=True), "description")
    for recipe, text in summaries.items():
        table.add_row(recipe, Text(f"{re.split(_SENTENCE, text, maxsplit=1)[0].rstrip('.')}."))
    console.show(table)


def _config(name: str, changes: list[str]) -> RunConfig:
    from captioner.training.recipe_files import is_translation, read_recipe

    if is_translation(read_recipe(name, changes)):
        from captioner.translation.train import load_translate_config

        return load_translate_config(name, changes)
    from captioner.training.recipe import load_config

    return load_config(name, changes)
