"""``captioner data``: fetch caption data sets and look at them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli import console

if TYPE_CHECKING:
    from captioner.data.download import Outcome, Progress
    from captioner.data.download.catalog import DataSet

EXAMPLE = "Example: captioner data inspect flickr8k --check-pictures"
DOWNLOAD_EXAMPLES = """Example: captioner data download coco karpathy-splits

Example: captioner data download coco-captions --members '*/captions_*' --to data"""

app = typer.Typer(help="Fetch caption data sets and look at them.", epilog=EXAMPLE, no_args_is_help=True)


@app.command("inspect", epilog=EXAMPLE)
def inspect(
    path: Annotated[Path, typer.Argument(help="The caption file, or the folder of the data set.")],
    images: Annotated[Path | None, typer.Option(help="The folder of the pictures, if they are elsewhere.")] = None,
    format: Annotated[
        str | None, typer.Option(help="coco, karpathy, flickr8k, kaggle, jsonl or csv; recognised if not given.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if anything is wrong with the data; see above.")
    ] = False,
    min_count: Annotated[int, typer.Option(min=1, help="How often a word must occur to be in the vocabulary.")] = 5,
    check_pictures: Annotated[
        bool, typer.Option("--check-pictures", help="Also decode every picture, which takes long.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Count what a data set holds and look for what spoils training.

    Wrong are malformed records, empty captions, missing or unreadable pictures, and the same picture in more than one
    split.
    """
    from captioner.data.annotations import read_captions
    from captioner.data.inspect import inspect_captions
    from captioner.text.vocabulary import tokenize

    data = read_captions(path, format=format, images=images)
    with console.progress("Reading pictures") as progress:
        report = inspect_captions(
            data, tokenize=tokenize, min_count=min_count, check_pictures=check_pictures, progress=progress
        )
    typer.echo(console.json_text(report.to_dict(), indent=2) if json else "\n".join(report.lines()))
    wrong = sum(found.count for found in (report.problems, report.missing, report.unreadable) if found)
    if strict and wrong + report.empty_captions + len(report.leaks or ()):
        raise typer.Exit(1)


@app.command("download", epilog=DOWNLOAD_EXAMPLES)
def download(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Data sets of the catalogue, which --list prints.")
    ] = None,
    to: Annotated[
        Path, typer.Option(file_okay=False, help="The folder of all data; each data set has a folder in it.")
    ] = Path("data"),
    show: Annotated[
        bool, typer.Option("--list", help="Print the known data sets with their sizes and terms, and download nothing.")
    ] = False,
    members: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Unpack only what has such a name in its archive; may be given several times."
        ),
    ] = None,
    delete_archives: Annotated[
        bool, typer.Option("--delete-archives", help="Delete each archive after unpacking it.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, max=8, help="Files downloaded at once; be kind to the servers.")] = 3,
) -> None:
    """Download caption data sets and unpack them where the other commands look for them.

    When it was interrupted, the same command goes on where it stopped. What is there and right is not fetched again.

    A file that fails is reported on stderr while the others go on; the exit code is then 1.
    """
    from captioner.data.download.catalog import CATALOG

    if show:
        typer.echo("\n\n".join(_entry(CATALOG[name]) for name in CATALOG))
        return
    if not names:
        raise typer.BadParameter("name a data set; --list prints the known ones", param_hint="NAME")
    from captioner.data.download import download as fetch

    chosen = [CATALOG[name] for name in dict.fromkeys(names)]
    for known in chosen:
        console.note(f"{known.name}: {known.terms}")
    failures = console.Failures()
    archives = [archive for known in chosen for archive in known.archives]
    with (
        _bars() as progress,
        closing(
            fetch(archives, to, members=members or (), keep=not delete_archives, parallel=parallel, progress=progress)
        ) as outcomes,
    ):
        for outcome in outcomes:
            if outcome.error:
                failures(outcome.error)
            else:
                typer.echo(f"{to / outcome.archive.path}: {_done(outcome)}")
    failures.exit()
    for folder in dict.fromkeys(folder for known in chosen for folder in known.folders):
        console.note(f"captioner data inspect {to / folder}  tells what is in it")


def _entry(known: DataSet) -> str:
    """A data set of the catalogue in a few lines."""
    lines = [
        f"{known.name}  {_bytes(known.size)}, unpacked about {_bytes(known.unpacked)}",
        f"  {known.about}",
        f"  Terms: {known.terms}",
    ]
    for archive in known.archives:
        size = f"{archive.size:,} bytes" if archive.size else "size unknown"
        lines.append(f"  {archive.url}  {size}, {archive.checksum.partition(':')[0] or 'no checksum known'}")
    return "\n".join(lines)


def _done(outcome: Outcome) -> str:
    fetched = f"{_bytes(outcome.fetched)} downloaded" if outcome.fetched else "nothing to download"
    if not outcome.written:
        return f"{fetched}, {outcome.present:,} files were there already"
    return f"{fetched}, {outcome.written:,} files unpacked" + (
        f", {outcome.present:,} were there already" if outcome.present else ""
    )


def _bytes(count: int) -> str:
    if not count:
        return "size unknown"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


@contextmanager
def _bars() -> Iterator[Progress]:
    """Show a bar for each file with its speed and the time left, on a terminal alone."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console.messages,
        transient=True,
        redirect_stdout=False,
        disable=not console.messages.is_terminal,
    ) as bars:
        tasks: dict[str, TaskID] = {}
        last: dict[str, tuple[str, int]] = {}
        lock = threading.Lock()

        def update(path: str, phase: str, done: int, total: int | None) -> None:
            with lock:
                if path not in tasks:
                    tasks[path] = bars.add_task("", total=None)
                before, reached = last.get(path, ("", 0))
                if (
                    phase != before or done < reached
                ):  # a new step, or the file from its beginning: its speed is measured anew
                    bars.reset(tasks[path], total=total, completed=done, description=f"{phase} {path}")
                last[path] = phase, done
            bars.update(tasks[path], completed=done, total=total)

        yield update
