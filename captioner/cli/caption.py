"""``captioner caption``: caption images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli import bars, console, images, options, outputs, streams
from captioner.data import rows
from captioner.errors import CaptionerError, ImageError

if TYPE_CHECKING:
    from captioner.caption import Caption
    from captioner.collection.items import Item

EXAMPLES = """Example: captioner caption photo.jpg

Example: captioner caption photos --recursive --output captions.csv

Example: captioner caption photos --recursive --sidecar xmp

Example: captioner caption photo.jpg --language de

Example: captioner caption photo.jpg --model show_attend_tell --model transformer

Example: find . -name '*.jpg' | captioner caption - --json"""

RECORD = ".captioner.jsonl"  # in a folder: the record of the captions in its sidecars and photos
_MAX_COUNTED = 10_000  # names counted for the progress bar; longer lists have no total


def run(
    given: images.Images,
    *,
    models: options.Models = None,
    translation: options.Translation,
    search: options.NBest,
    batch_size: options.BatchSize = 32,
    workers: options.Workers = 2,
    once: Annotated[
        bool,
        options.data_option("--once", help="Leave out exact copies of an image, and all but the first of a burst."),
    ] = False,
    offline: Annotated[
        bool, options.data_option("--offline", help="Refuse images at web addresses and other URLs.")
    ] = False,
    device: options.Device = "auto",
    engine: options.EngineName = "auto",
    json: options.JsonLines = False,
    output: Annotated[
        Path | None,
        options.output_option(
            "--output",
            "-o",
            callback=outputs.ends_in("jsonl", "csv"),
            dir_okay=False,
            help="Write to a .jsonl or .csv file instead of the screen, and continue it if an earlier run wrote it.",
        ),
    ] = None,
    places: options.Places,
    overwrite: Annotated[
        bool,
        options.output_option(
            "--overwrite",
            help="Caption images again that have a caption; replace any output file, and captions by people.",
        ),
    ] = False,
    attention: Annotated[
        bool, options.output_option("--attention", help="Add the attention for each word; only in JSON.")
    ] = False,
) -> None:
    """Caption images.

    Images can also be in ZIP, tar and Parquet files, at URLs (https://, s3:// and others), or one on stdin.

    For a single file, print the sentence; otherwise a line "path: sentence" for each image. A path with a line end, a
    tab or ": " is in quotes, as in JSON.

    With --language or --translator, print the translations; JSON and CSV contain the captions as well.

    Several models form an ensemble, which averages their probabilities of each word. They must share a vocabulary.

    With --n-best, each caption has its own line, with its log-probability after a tab.

    With --sidecar and --embed, captions are written where photo software reads them. Captions by people are kept,
    unless --overwrite is given; those of this program are replaced if they change. Without --output, the rows of a
    folder are then in FOLDER/.captioner.jsonl.

    An output file has a row for each image: image, caption, log_probability, model, error, bytes, modified. Rows are
    written as images are captioned, so an interruption loses nothing. The same command again captions only images that
    are new, changed in size or time, failed, or without a translation into --language.

    An image that cannot be read is reported on stderr and skipped; the exit code is then 1.
    """
    if attention and not json and (output is None or output.suffix.lower() == ".csv"):
        raise typer.BadParameter("give --json too, or an --output ending in .jsonl", param_hint="--attention")
    from captioner.collection.captioned import captioned
    from captioner.collection.items import items_of
    from captioner.store import DEFAULT

    library = places.open(overwrite=overwrite)
    if overwrite and output is None and library is None:
        raise typer.BadParameter("give --output, --sidecar or --embed too", param_hint="--overwrite")
    folder = None
    advice = "give another --output" + (", or --overwrite" if library is None else "")  # people's captions are kept
    if library is not None and output is None and len(given.paths) == 1 and os.path.isdir(given.paths[0]):
        folder, advice = Path(given.paths[0]), "delete it, and all photos are captioned again"
        output = folder / RECORD

    outputs.check_outputs(given.paths, output=output)
    failures = console.Failures()
    settings, name = search.settings(), options.ensemble(models) or DEFAULT
    prints = json or output is None
    bar = not given.single and bars.at_once(stdout=prints)
    with ExitStack() as stack:
        record = None
        if output:
            from captioner.collection.record import open_record

            more = ("language", "translation") if translation else ()
            record = stack.enter_context(
                open_record(
                    output,
                    model=name,
                    more=more,
                    language=translation.language,
                    folder=folder,
                    advice=advice,
                    overwrite=overwrite,
                )
            )
        found: Iterator[Item] = chain.from_iterable(items_of(name, offline=offline) for name in given.find(failures))
        copies = None
        if once:
            from captioner.collection.once import Deduplicator

            copies = Deduplicator()
            found = copies.first(found)
        if record:
            found = record.chosen(found, lacks=library.lacks) if library else record.chosen(found)
        # A list on standard input may still be growing, so it is not read ahead.
        first = _ahead(found, _MAX_COUNTED if bar and "-" not in given.paths else 1)
        if not first and not (record and record.counts.before):
            failures.exit()
            raise CaptionerError(images.NO_IMAGES)
        counted = bar and 1 < len(first) < _MAX_COUNTED and not isinstance(first[-1].data, bytes)
        progress = stack.enter_context(bars.progress("Captioning", show=bar))
        results: Iterator[tuple[Item, Caption | ImageError]] = iter(())
        if error := _only_error(given, first):
            results = iter([(first[0], error)])
        elif first:
            from captioner import Captioner

            translator = translation.load(device)
            results = captioned(
                Captioner.from_pretrained(name, device=device, engine=engine, **settings),
                chain(first, found),
                translator=translator,
                batch_size=batch_size,
                workers=workers,
                max_pixels=given.max_pixels,
            )
        for done, (item, result) in enumerate(results, start=1):
            if isinstance(result, ImageError):
                failures(result)
            row = rows.row(item.name, result, model=name, attention=attention, stamp=item.stamp)
            if library and row["error"] is None:
                try:
                    row |= dict(zip(rows.STAMP, library.write(item, row).stamp, strict=True))
                except CaptionerError as error:
                    failures(error)
                    row["error"] = str(error)
            if record:
                record.write(row)
            if json:
                streams.show_json(row)
            elif prints and row["caption"] is not None:
                _show(row, "" if given.single else f"{streams.quoted(row['image'])}: ", score=search.n_best > 1)
            progress(done, len(first) if counted else None)
            if streams.lost() and output is None:
                break
    if copies and (copies.copies or copies.bursts):
        same = "1 copy" if copies.copies == 1 else f"{copies.copies:,} copies"
        console.note(f"left out {same} and {console.count(copies.bursts, 'photo')} of bursts")
    if library and library.kept:
        console.note(f"kept captions by people in {library.kept:,} photos; --overwrite replaces them")
    if record:
        console.wrote(output, str(record.counts))
    failures.exit()


def _ahead(items: Iterator[Item], most: int) -> list[Item]:
    """Return the next items, up to the first that is in memory."""
    found: list[Item] = []
    for item in islice(items, most):
        found.append(item)
        if isinstance(item.data, bytes):
            break
    return found


def _show(row: rows.Row, prefix: str, *, score: bool) -> None:
    """Print the captions in a row, or their translations, each with its log-probability on request."""
    for caption in (row, *row.get("others", ())):
        text = caption.get("translation", {}).get("text", caption["caption"])
        streams.show(prefix + text, *([f"{caption['log_probability']:.2f}"] if score else []))


def _only_error(given: images.Images, first: list[Item]) -> ImageError | None:
    """Return the error of the only image, if the model need not be loaded to find it."""
    if len(first) != 1 or [first[0].name] != given.paths:
        return None
    item = first[0]
    if item.data is None:
        return ImageError(item.name, item.error)
    return given.unreadable(given.paths) if isinstance(item.data, str) else None
