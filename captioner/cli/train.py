"""``captioner train``: train a model from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import captioner
from captioner.cli import console

EXAMPLES = """Example: captioner train recipe.yaml --output models/mine

Example: captioner train flickr8k_show_attend_tell --set model.decoder.hidden=256 --set seed=2 --output models/small"""

PRESETS = sorted(file.stem for file in (Path(captioner.__file__).parent / "training" / "presets").glob("*.yaml"))


def run(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help=f"A YAML file, or a shipped recipe: {', '.join(PRESETS) or 'none'}."),
    ],
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given several times.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", file_okay=False, help="The folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
) -> None:
    """Train a model and print the folder it was written to."""
    from captioner.training import fit

    typer.echo(fit.run(config, changes=changes or [], output=output, resume=resume, console=console.messages))
