"""``captioner caption``: pictures in, sentences out."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import typer

from captioner import files
from captioner.cli import console
from captioner.errors import CaptionerError, ImageError

EXAMPLES = """Example: captioner caption photo.jpg

Example: captioner caption photos --recursive --output captions.csv

Example: find . -name '*.jpg' | captioner caption - --json"""

_FEW = 10_000  # so many names are counted for the progress bar; more may be without end


def _output(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in (".jsonl", ".json", ".csv"):
        raise typer.BadParameter(f"{path}: the name must end in .jsonl, .json or .csv")
    return path


def run(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files, folders, patterns in quotes, or - for a list on stdin, one path a line.")
    ],
    model: Annotated[str | None, typer.Option(help="A shipped model, a model folder, or user/model on the Hugging Face hub.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into subfolders too.")] = False,
    beam: console.Beam = None,
    n_best: Annotated[int, typer.Option(min=1, help="Captions for each picture, best first; at most the width of the beam.")] = 1,
    length_normalisation: console.LengthNormalisation = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures captioned at once.")] = 8,
    workers: console.Workers = 2,
    device: console.Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", callback=_output, dir_okay=False, help="Write to a .jsonl, .json or .csv file, not to the screen."),
    ] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Refuse pictures with more pixels.")] = None,
    attention: Annotated[bool, typer.Option("--attention", help="Add where the model looked for each word; for JSON alone.")] = False,
) -> None:
    """Caption pictures.

    A single file gives its sentence; anything else gives a line "path: sentence" for each picture.

    With --n-best there is a line for every caption, with its log-probability after a tab. The output file appears when all is done.

    A picture that cannot be read is reported on stderr, and the others go on; the exit code is then 1.
    """
    if attention and not json and (output is None or output.suffix.lower() == ".csv"):
        raise typer.BadParameter("give --json too, or an --output that ends in .json or .jsonl", param_hint="--attention")
    from captioner.data.find import find_images

    failures = console.Failures()
    alone = len(paths) == 1 and os.path.isfile(paths[0])
    found = find_images(_named(paths), recursive=recursive, on_empty=failures)
    shows = json or output is None
    bar = not alone and console.talks(stdout=shows)
    # A list on standard input may still be growing: it is not read ahead.
    first = list(islice(found, _FEW if bar and "-" not in paths else 1))
    if not first:
        raise CaptionerError("no pictures found; give picture files, or folders that hold some")
    total = len(first) if bar and 1 < len(first) < _FEW else None

    from captioner import Captioner

    search = console.settings(width=beam, n_best=n_best, length_normalisation=length_normalisation)
    captioner = Captioner.from_pretrained(model, device=device, **search)
    results = captioner.stream(chain(first, found), batch_size=batch_size, workers=workers, max_pixels=max_pixels)
    with _written(output) if output else nullcontext(lambda record: None) as write, console.progress("Captioning", show=bar) as progress:
        for done, result in enumerate(results, start=1):
            if isinstance(result, ImageError):
                failures(result)
                record: dict[str, Any] = {"image": result.source, "error": result.reason}
            else:
                record = result.to_dict(attention=attention)
            write(record)
            if json:
                typer.echo(console.json_text(record))
            elif shows and "error" not in record:
                for one in (record, *record.get("others", ())):
                    score = f"\t{one['log_probability']:.2f}" if n_best > 1 else ""
                    typer.echo(("" if alone else f"{record['image']}: ") + one["caption"] + score)
            progress(done, total)
    failures.exit()


def _named(paths: list[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            yield from (os.fsdecode(name) for line in sys.stdin.buffer if (name := line.rstrip(b"\r\n")))
        else:
            yield path


@contextmanager
def _written(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give a function that writes a record; the file appears when the block ends well."""
    with files.atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        kind = path.suffix.lower()
        if kind == ".csv":
            table = csv.DictWriter(file, ("image", "caption", "log_probability", "error"), extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            yield lambda record: table.writerows([record, *({"image": record["image"], **other} for other in record.get("others", ()))])
        elif kind == ".jsonl":
            yield lambda record: print(console.json_text(record), file=file)
        else:
            marks = chain(["[\n"], iter(lambda: ",\n", None))
            yield lambda record: print(next(marks), console.json_text(record), sep="", end="", file=file)
            file.write("\n]\n")
