"""``captioner data``: download caption data sets, inspect them, and convert them to other formats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli import bars, complete, console, groups, options, outputs, streams
from captioner.cli.commands import Group

if TYPE_CHECKING:
    from captioner.data.download import Outcome
    from captioner.data.download.catalog import DataSet
    from captioner.data.inspect import DataReport, DuplicateImages, SplitSummary

EXAMPLE = "Example: captioner data inspect flickr8k --check-pictures"
CONVERT_EXAMPLES = """Example: captioner data convert data/flickr8k -o flickr8k-folder --copy

Example: captioner data convert hf://datasets/USER/NAME -o photos.jsonl

Example: captioner data convert photos -o dataset --format webdataset --source-format .caption"""
DOWNLOAD_EXAMPLES = """Example: captioner data download coco karpathy-splits

Example: captioner data download coco-captions --members '*/captions_*' --to data"""


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="The caption file, the folder of the data set, or hf://datasets/USER/NAME on the hub."
        ),
    ],
    images: Annotated[Path | None, typer.Option(help="The folder of the images, if they are elsewhere.")] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="coco, karpathy, flickr8k, kaggle, jsonl, csv, imagefolder, parquet, webdataset, lavis or txt, or the "
            "extension of text next to the images, such as .caption; recognised if not given."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 if the data has such a fault.")] = False,
    min_count: Annotated[
        int, typer.Option(min=1, help="Number of occurrences that a word needs to be in the vocabulary.")
    ] = 5,
    check_images: Annotated[
        bool, typer.Option("--check-pictures", help="Also decode every image, which takes a long time.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Count the images, captions and words of a data set, and find faults.

    Faults are malformed records, empty captions, missing or unreadable images, and the same image in more than one
    split.
    """
    from captioner.data.annotations import read_captions
    from captioner.data.inspect import inspect_captions
    from captioner.text.vocabulary import tokenize

    data = read_captions(path, format=format, images=images)
    with bars.progress("Reading images") as progress:
        report = inspect_captions(
            data, tokenize=tokenize, min_count=min_count, check_images=check_images, progress=progress
        )
    if json:
        streams.show_json(report.to_dict(), indent=2)
    else:
        _print_report(report)
    faults = sum(listing.count for listing in (report.problems, report.missing, report.unreadable) if listing)
    if strict and faults + report.empty_captions + len(report.leaks or ()):
        raise typer.Exit(1)


def _print_report(report: DataReport) -> None:
    images = sum(split.photos for split in report.splits.values())
    captions = sum(split.captions for split in report.splits.values())
    streams.show(f"{report.name} ({report.format}): {images:,} images with {captions:,} captions")
    for note in report.notes:
        streams.show(note)
    if report.splits:
        _print_splits(report.splits)
    vocabulary = report.vocabulary
    typer.echo(
        f"Vocabulary of {' + '.join(vocabulary.splits) or 'nothing'}: {vocabulary.words:,} words, "
        f"{vocabulary.kept:,} of them occur at least {vocabulary.min_count} times"
    )
    for split, share in vocabulary.coverage.items():
        typer.echo(f"  these cover {share:.2%} of the words in {split}")
    for title, listing in (("Missing images", report.missing), ("Unreadable images", report.unreadable)):
        if listing is not None:
            _print_items(title, listing.count, listing.first)
    if report.duplicates is not None and report.leaks is not None:
        _print_duplicates("Byte-identical images", report.duplicates)
        _print_duplicates("The same image in more than one split", report.leaks)
    _print_items("Images with a repeated caption", report.repeated_captions.count, report.repeated_captions.first)
    _print_items("Empty captions", report.empty_captions)
    _print_items("Malformed records", report.problems.count, report.problems.first)


def _print_splits(splits: dict[str, SplitSummary]) -> None:
    from rich.table import Column
    from rich.text import Text

    counts = "images", "captions", "captions per image\nmin/mean/max", "words per caption\nmin/median/mean/p95/max"
    columns = (Column(name, justify="right") for name in counts)
    table = console.table("split", *columns)
    for name, split in splits.items():
        per, length = split.captions_per_photo, split.words_per_caption
        table.add_row(
            Text(name),
            f"{split.photos:,}",
            f"{split.captions:,}",
            f"{per.min} / {per.mean:.1f} / {per.max}",
            f"{length.min} / {length.median:g} / {length.mean:.1f} / {length.p95} / {length.max}",
        )
    typer.echo()
    console.show(table)
    typer.echo()


def _print_duplicates(title: str, groups: Sequence[DuplicateImages]) -> None:
    shown = [f"{' = '.join(group.image_ids)} ({', '.join(group.splits)})" for group in groups[:10]]
    _print_items(title, len(groups), shown)


def _print_items(title: str, count: int, shown: Sequence[str] = ()) -> None:
    """Print a count and below it the first items, if they are known."""
    typer.echo(f"{title}: {f'{count:,}' if count else 'none'}")
    for item in shown:
        streams.show(f"  {item}")
    if shown and count > len(shown):
        typer.echo(f"  ... and {count - len(shown):,} more")


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="The caption file, the folder of the data set, or hf://datasets/USER/NAME on the hub.",
        ),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="TARGET",
            callback=outputs.writable,
            help="A folder for captions and images; or a .jsonl, .csv or .json file, which refers to the images where "
            "they are; or a .tar file of WebDataset. Nothing is overwritten.",
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="The format of TARGET: coco, karpathy, jsonl, csv, imagefolder, webdataset or txt, or the extension "
            "of text next to the images, such as .caption.",
            show_default="that of its name; imagefolder for a folder",
        ),
    ] = None,
    source_format: Annotated[
        str | None, typer.Option(help="The format of SOURCE, as --format of data inspect.", show_default="recognised")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(file_okay=False, help="The folder of SOURCE's images, if they are elsewhere.")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the images into the folder, which otherwise has links to them.")
    ] = False,
    strict: options.Strict = False,
) -> None:
    """Write a data set in another format, with its splits.

    Information that the format cannot represent is reported.

    Images that cannot be read are reported on stderr and left out; the exit code is then 1.
    """
    from captioner.data.annotations import read_captions
    from captioner.data.convert import convert as write
    from captioner.data.convert import format_of_target

    chosen = format_of_target(output, format)
    data = options.report_malformed(read_captions(source, format=source_format, images=images, strict=strict))
    with bars.progress("Writing images") as progress:
        result = write(data, output, format=chosen, copy=copy, progress=progress)
    failures = console.Failures()
    for error in result.errors:
        failures(error)
    for sentence in result.lost:
        console.note(f"{output}: {sentence}")
    if format is None and (output.suffix.lower() == ".json" or output.is_dir()):
        console.note(f"{output}: written as {chosen}; --format chooses another format")
    splits = ", ".join(f"{split} {count:,}" for split, count in result.splits.items())
    written = sum(result.splits.values())
    streams.show(f"{output} ({chosen}): {written:,} images with {result.captions:,} captions; {splits}")
    failures.exit()


def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            autocompletion=complete.data_sets,
            help="Data sets of the catalogue, which --list prints.",
        ),
    ] = None,
    to: Annotated[
        Path, typer.Option(file_okay=False, help="The folder of all data sets; each has a folder in it.")
    ] = Path("data"),
    show: Annotated[
        bool, typer.Option("--list", help="List the known data sets with their sizes and terms, without downloading.")
    ] = False,
    members: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Unpack only the archive members that match; may be repeated."),
    ] = None,
    delete_archives: Annotated[
        bool, typer.Option("--delete-archives", help="Delete each archive after unpacking it.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, max=8, help="Files downloaded in parallel.")] = 3,
) -> None:
    """Download caption data sets and unpack them where the other commands look for them.

    After an interruption, the same command resumes. Intact files are not downloaded again.

    A file that fails is reported on stderr while the others continue; the exit code is then 1.
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
    finished: list[Outcome] = []
    archives = [archive for known in chosen for archive in known.archives]
    with (
        bars.files() as progress,
        closing(
            fetch(archives, to, members=members or (), keep=not delete_archives, parallel=parallel, progress=progress)
        ) as outcomes,
    ):
        for outcome in outcomes:
            if outcome.error:
                failures(outcome.error)
            else:
                finished.append(outcome)
                typer.echo(f"{to / outcome.archive.path}: {_summary(outcome)}")
    if finished:
        console.wrote(f"{to}{os.sep}", f"{console.count(len(finished), 'archive')}: {_summary(*finished)}")
    failures.exit()
    for folder in dict.fromkeys(folder for known in chosen for folder in known.folders):
        console.note(f"captioner data inspect {to / folder}  shows its content")


def _entry(known: DataSet) -> str:
    lines = [
        f"{known.name}  {_bytes(known.size)}, unpacked about {_bytes(known.unpacked)}",
        f"  {known.about}",
        f"  Terms: {known.terms}",
    ]
    for archive in known.archives:
        size = f"{archive.size:,} bytes" if archive.size else "size unknown"
        lines.append(f"  {archive.url}  {size}, {archive.checksum.partition(':')[0] or 'no checksum known'}")
    return "\n".join(lines)


def _summary(*outcomes: Outcome) -> str:
    fetched, written, present = (
        sum(getattr(one, name) for one in outcomes) for name in ("fetched", "written", "present")
    )
    downloaded = f"{_bytes(fetched)} downloaded" if fetched else "nothing to download"
    if not written:
        return f"{downloaded}, {present:,} files were already there"
    return f"{downloaded}, {written:,} files unpacked" + (f", {present:,} were already there" if present else "")


def _bytes(count: int) -> str:
    if not count:
        return "size unknown"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


app = typer.Typer(
    name="data",
    help="Download caption data sets, inspect them, and convert them to other formats.",
    epilog=EXAMPLE,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    cls=Group,
)
app.command("inspect", epilog=EXAMPLE)(groups.expand(inspect))
app.command("convert", epilog=CONVERT_EXAMPLES)(groups.expand(convert))
app.command("download", epilog=DOWNLOAD_EXAMPLES)(groups.expand(download))
