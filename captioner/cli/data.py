"""``captioner data``: look at caption data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import console

EXAMPLE = "Example: captioner data inspect flickr8k --check-pictures"

app = typer.Typer(help="Look at caption data sets.", epilog=EXAMPLE, no_args_is_help=True)


@app.callback()
def _root() -> None:
    pass  # so that a single command keeps its name


@app.command("inspect", epilog=EXAMPLE)
def inspect(
    path: Annotated[Path, typer.Argument(help="The caption file, or the folder of the data set.")],
    images: Annotated[Path | None, typer.Option(help="The folder of the pictures, if they are elsewhere.")] = None,
    format: Annotated[str | None, typer.Option(help="coco, karpathy, flickr8k, kaggle, jsonl or csv; recognised if not given.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything is wrong with the data; see above.")] = False,
    min_count: Annotated[int, typer.Option(min=1, help="How often a word must occur to be in the vocabulary.")] = 5,
    check_pictures: Annotated[bool, typer.Option("--check-pictures", help="Also decode every picture, which takes long.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Count what a data set holds and look for what spoils training.

    Wrong are malformed records, empty captions, missing or unreadable pictures, and the same picture in more than one split.
    """
    from captioner.data.annotations import read_captions
    from captioner.data.inspect import inspect_captions
    from captioner.text.vocabulary import tokenize

    data = read_captions(path, format=format, images=images)
    with console.progress("Reading pictures") as progress:
        report = inspect_captions(data, tokenize=tokenize, min_count=min_count, check_pictures=check_pictures, progress=progress)
    typer.echo(console.json_text(report.to_dict(), indent=2) if json else "\n".join(report.lines()))
    wrong = sum(found.count for found in (report.problems, report.missing, report.unreadable) if found)
    if strict and wrong + report.empty_captions + len(report.leaks or ()):
        raise typer.Exit(1)
