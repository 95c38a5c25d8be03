"""``captioner models``: what there is to choose from."""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any

import typer

from captioner.cli import console

EXAMPLES = """Example: captioner models

Example: captioner models --json"""


def run(json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """List the shipped models with their size, data and scores, and the families that a recipe can name.

    The scores are those of the best search on the data's dev split, in percent.
    """
    from captioner import checkpoint
    from captioner.decoders import DECODERS
    from captioner.encoders import ENCODERS, REFINERS
    from captioner.registry import Registry
    from captioner.search import SEARCHES

    registries: tuple[Registry[Any], ...] = (ENCODERS, REFINERS, DECODERS, SEARCHES)
    families = {registry.kind: {name: _summary(registry[name]) for name in registry} for registry in registries}
    models = {}
    for name, folder in checkpoint.shipped().items():
        config = checkpoint.read_config(folder)
        about = config["about"]
        scores: dict[str, float] = max(about.get("scores", {}).values(), key=lambda values: values.get("CIDEr", 0.0), default={})
        models[name] = {
            "default": name == checkpoint.DEFAULT,
            "encoder": config["model"]["encoder"]["name"],
            "decoder": config["model"]["decoder"]["name"],
            "megabytes": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1),
            "data": about.get("data"),
            "photos": about.get("photos"),
            "scores": scores,
            "folder": str(folder),
        }
    if json:
        typer.echo(console.json_text({"models": models, **families}, indent=2))
        return
    _print(models, families)


def _summary(thing: Any) -> str:
    """Return the first paragraph of a docstring without its markup."""
    paragraph = (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")
    return re.sub(r"(?::\w+:)?`+([^`]*)`+", r"\1", paragraph)


def _print(models: dict[str, dict[str, Any]], families: dict[str, dict[str, str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("shipped model", no_wrap=True)
    for column in ("MB", "BLEU-4", "METEOR", "CIDEr"):
        table.add_column(column, justify="right")
    table.add_column("trained on")
    for name, model in models.items():
        scores = [f"{100 * model['scores'][metric]:.1f}" if metric in model["scores"] else "" for metric in ("BLEU-4", "METEOR", "CIDEr")]
        data = f"{model['data']}, {model['photos']:,} photos" if model["photos"] else ""
        table.add_row(name + " (default)" * model["default"], f"{model['megabytes']:.1f}", *scores, data)
    out.print(table)
    for kind, entries in families.items():
        table = Table(box=SIMPLE_HEAD)
        table.add_column(kind, no_wrap=True, min_width=max(map(len, entries), default=0))
        table.add_column("what it is")
        for name, summary in entries.items():
            table.add_row(name, summary)
        if entries:
            out.print(table)
