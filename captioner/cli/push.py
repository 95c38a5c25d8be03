"""``captioner push``: upload a model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Example: captioner push runs/mine/best user/my-captioner

Example: captioner push runs/mine/best user/my-captioner --private --card card.md

Example: captioner caption photo.jpg --model user/my-captioner"""


def run(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model folder, an exported one, a translator's, or a shipped model."),
    ],
    name: Annotated[str, typer.Argument(metavar="USER/MODEL", help="Its name on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    card: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, metavar="FILE", help="The model card, in Markdown; by default the model's own."
        ),
    ] = None,
) -> None:
    """Upload a model to the Hugging Face hub.

    Only the model's own files are uploaded: config, card, vocabulary, and weights, graphs and consensus if it has them;
    unchanged and in one commit. Log in first: hf auth login

    Others use the model by --model USER/MODEL; USER/MODEL@REVISION is a branch, a tag or a commit.
    """
    from captioner import files, store
    from captioner.errors import CheckpointError

    text = "" if card is None else files.read_text(card, error=CheckpointError, advice="give Markdown in UTF-8")
    typer.echo(store.push(store.locate(model, kind=None), name, private=private, card=text))
