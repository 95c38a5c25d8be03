"""``captioner caption``: caption images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli import console, images, options, streams
from captioner.data import rows
from captioner.errors import CaptionerError, ImageError

if TYPE_CHECKING:
    from captioner.caption import Caption

EXAMPLES = """Example: captioner caption photo.jpg

Example: captioner caption photos --recursive --output captions.csv

Example: captioner caption photo.jpg --language de

Example: captioner caption photo.jpg --model show_attend_tell --model transformer

Example: find . -name '*.jpg' | captioner caption - --json"""

_COUNTED = 10_000  # names counted for the progress bar; longer lists have no total


def run(
    given: images.Images,
    *,
    models: options.Models = None,
    translation: options.Translation,
    search: options.NBest,
    batch_size: options.BatchSize = 32,
    workers: options.Workers = 2,
    device: options.Device = "auto",
    engine: options.EngineName = "auto",
    json: options.JsonLines = False,
    output: Annotated[
        Path | None,
        options.output_option(
            "--output",
            "-o",
            callback=options.ends_in("jsonl", "json", "csv"),
            dir_okay=False,
            help="Write to a .jsonl, .json or .csv file instead of the screen.",
        ),
    ] = None,
    attention: Annotated[
        bool, options.output_option("--attention", help="Add the attention for each word; only in JSON.")
    ] = False,
) -> None:
    """Caption images.

    For a single file, print the sentence; otherwise a line "path: sentence" for each image.

    With --language or --translator, print the translations; JSON and CSV contain the captions as well.

    Several models form an ensemble, which averages their probabilities of each word. They must share a vocabulary.

    With --n-best, each caption has its own line, with its log-probability after a tab. The output file appears when
    everything is done.

    An image that cannot be read is reported on stderr and skipped; the exit code is then 1.
    """
    if attention and not json and (output is None or output.suffix.lower() == ".csv"):
        raise typer.BadParameter("give --json too, or an --output ending in .json or .jsonl", param_hint="--attention")
    from captioner.store import DEFAULT

    options.check_outputs(given.paths, output=output)
    failures = console.Failures()
    found = given.find(failures)
    prints = json or output is None
    bar = not given.single and console.shows_progress(stdout=prints)
    # A list on standard input may still be growing, so it is not read ahead.
    first = list(islice(found, _COUNTED if bar and "-" not in given.paths else 1))
    if not first:
        failures.exit()
        raise CaptionerError(images.NOTHING)
    total = len(first) if bar and 1 < len(first) < _COUNTED else None

    settings, name = search.settings(), options.ensemble(models)
    results: Iterator[Caption | ImageError]
    if error := given.unreadable(first):
        results = iter([error])
    else:
        from captioner import Captioner

        translator = translation.load(device)
        captioner = Captioner.from_pretrained(name, device=device, engine=engine, **settings)
        results = captioner.stream(
            chain(first, found), batch_size=batch_size, workers=workers, max_pixels=given.max_pixels
        )
        if translator:
            results = translator.captions(results, batch_size=batch_size)
    with (
        rows.writer(output, more=("language", "translation") if translation else ())
        if output
        else nullcontext(lambda record: None) as write,
        console.progress("Captioning", show=bar) as progress,
    ):
        for done, result in enumerate(results, start=1):
            if isinstance(result, ImageError):
                failures(result)
            record = rows.row(result.source or "", result, model=name or DEFAULT, attention=attention)
            write(record)
            if json:
                streams.show_json(record)
            elif prints and record["error"] is None:
                prefix = "" if given.single else f"{record['image']}: "
                for caption in (record, *record.get("others", ())):
                    score = [f"{caption['log_probability']:.2f}"] if search.n_best > 1 else []
                    text = caption["translation"]["text"] if translation else caption["caption"]
                    streams.show(prefix + text, *score)
            progress(done, total)
            if streams.lost() and output is None:
                break
    failures.exit()
