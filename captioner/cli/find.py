"""``captioner find``: find photos by a description."""

from __future__ import annotations

import os
from functools import cache, partial
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner import files
from captioner.cli import bars, complete, console, options, outputs, streams
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner import Captioner
    from captioner.retrieval import Report

EXAMPLES = """Example: captioner find "dog on a beach" photos

Example: captioner find "dog on a beach" photos --recursive -o found.html

Example: captioner find "Anna on a bicycle" photos --captions captions.csv --top 5 --json"""


def run(
    sentence: Annotated[str, typer.Argument(metavar="SENTENCE", help="A description of the photos, or some words.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", file_okay=False, help="The folder of the photos.")],
    *,
    recursive: Annotated[bool, options.data_option("--recursive", "-r", help="Include subfolders.")] = False,
    captions: Annotated[
        list[Path] | None,
        options.data_option(
            dir_okay=False,
            help="Captions of the photos, a file of captioner caption --output; may be repeated. "
            "FOLDER/.captioner.jsonl is read without it.",
        ),
    ] = None,
    index: Annotated[
        Path | None,
        options.data_option(
            dir_okay=False,
            help="The index file, for a folder that must not be written to.",
            show_default="FOLDER/.captioner.index",
        ),
    ] = None,
    max_pixels: Annotated[int | None, options.data_option(min=1, help="Refuse images with more pixels.")] = None,
    top: Annotated[int, options.output_option("--top", "-n", min=1, help="Number of photos, best first.")] = 10,
    output: Annotated[
        Path | None,
        options.output_option(
            "--output",
            "-o",
            callback=outputs.ends_in("html"),
            dir_okay=False,
            help="Also write a contact sheet of these photos, an .html file that loads nothing. A file that this "
            "program did not write is not replaced.",
        ),
    ] = None,
    json: options.JsonLines = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete.models,
            help="A shipped model, a model folder, or user/model on the Hugging Face hub; one that attends to a grid.",
        ),
    ] = None,
    workers: options.Workers = 2,
    device: options.Device = "auto",
    engine: options.EngineName = "auto",
) -> None:
    """Find the photos in a folder that fit a description.

    Print a line "path: text" for each, best first; odd paths are in quotes, as captioner caption prints them. Photos
    need no captions: they are ranked by the probability of the description under the model. Texts in
    .captioner.jsonl, in sidecars and inside photos are searched too; words outside the model's vocabulary, such as
    names, are found only there.

    The first search encodes the photos, about as fast as captioning. FOLDER/.captioner.index stores the result, and
    later searches encode only photos that are new or changed.

    A photo that cannot be read is reported on stderr and left out; the exit code is then 1.
    """
    from captioner import store
    from captioner.cli.caption import RECORD
    from captioner.data.find import find_images
    from captioner.data.mark import check_replaceable, is_drawn_image
    from captioner.retrieval import INDEX, Finder, contact_sheet, open_index
    from captioner.retrieval.ranking import words_of

    words_of(sentence)
    if not folder.is_dir():
        raise CaptionerError(f"{folder}{os.sep}: no such folder; give the folder of the photos")
    (located, *others) = store.locate_captioners(model)
    if others:
        raise typer.BadParameter("an ensemble cannot find photos; give one model", param_hint="--model")
    outputs.check_outputs([*(captions or ()), *([index] if index else ())], output=output)
    if output:
        check_replaceable(output)
    failures = console.Failures()
    load = cache(partial(_load, located, device=device, engine=engine))
    found = find_images([folder], recursive=recursive, on_empty=failures)
    records = [folder / RECORD] if (folder / RECORD).is_file() else []
    with open_index(index or folder / INDEX, folder) as photos:
        with bars.progress("Encoding", show=bars.at_once(stdout=False)) as progress:
            report = photos.update(
                (path for path in found if not is_drawn_image(str(path))),
                _identity(located),
                load,
                records=[*records, *(captions or ())],
                max_pixels=max_pixels,
                workers=workers,
                progress=progress,
            )
        for error in report.errors:
            failures(error)
        if report.new or report.changed or report.gone:
            console.note(f"{photos.path}: {_counts(report)}")
        searched = report.new + report.changed + report.before
        if not searched:
            failures.exit()
            raise CaptionerError(f"{folder}{os.sep}: it has no photos; give a folder that has some")
        finder = Finder(photos, load())
        hits = finder.find(sentence, top)
        if unknown := finder.unknown(sentence):
            console.note(
                f"not in the model's vocabulary, so searched in texts only: {', '.join(dict.fromkeys(unknown))}"
            )
    for hit in hits:
        if json:
            streams.show_json({"image": str(hit.path), "score": round(hit.score, 4), "texts": hit.text.splitlines()})
        else:
            name, (text, *_) = streams.quoted(str(hit.path)), hit.text.splitlines() or [""]
            streams.show(f"{name}: {text}" if text else name)
    if not hits:
        console.note("found nothing: these words are in no text and not in the model's vocabulary")
    if output:
        files.write_text(output, contact_sheet(sentence, hits, output, folder=folder, searched=searched))
        console.wrote(output, f"{len(hits):,} of {searched:,} photos")
    failures.exit()


def _load(folder: Path, *, device: str, engine: str) -> Captioner:
    from captioner import Captioner

    captioner = Captioner.from_pretrained(folder, device=device, engine=engine)
    if captioner.engine.grid is None:
        raise CaptionerError(
            f"{folder.name}: attends to regions, and find needs a model that attends to a grid, such as "
            "show_attend_tell; give one"
        )
    return captioner


def _identity(folder: Path) -> str:
    """Return the digests of a model's parts: features of another one are made again."""
    from captioner import store

    return dumps(store.read_config(folder, store.captioner_kind(folder)).get("files", str(folder)), sort_keys=True)


def _counts(report: Report) -> str:
    numbers = ((report.new, "new"), (report.changed, "changed"), (report.before, "unchanged"), (report.gone, "gone"))
    return ", ".join(f"{number:,} {what}" for number, what in numbers if number)
