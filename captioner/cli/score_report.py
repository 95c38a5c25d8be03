"""Output of the commands that measure: tables on the screen, JSON, and a row for each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from captioner import files
from captioner.cli import console, options, streams
from captioner.data.rows import csv_rows

if TYPE_CHECKING:
    from captioner.data.dataset import CaptionData
    from captioner.evaluation.evaluate import Evaluation

_CLASSES = 12  # classes in the table of grounding, those with most words in the references


def report(
    model: object,
    data: Path,
    title: str,
    record: dict[str, Any],
    problems: Sequence[object],
    output: options.Output,
    per_image: Path | None = None,
    rows: Sequence[dict[str, Any]] = (),
) -> None:
    """Print and write a measurement; report its notes and problems, and exit with code 1 if there are problems.

    It is printed first, so that a full disk does not cost the work. The rows, if any, are those of ``per_image``.
    """
    record = {"model": str(model), "data": str(data)} | record
    if output.json:
        streams.show_json(record, indent=2)
    else:
        _show(f"{model} on {title}", record)
    if per_image and rows:
        _write_rows(per_image, rows)
        console.wrote(per_image, f"the scores of {console.count(len(rows), 'image')}")
    if output.output_scores:
        files.write_json(output.output_scores, record)
        console.wrote(output.output_scores, "the scores")
    for line in record["notes"]:
        console.note(line)
    failures = console.Failures()
    for problem in problems:
        failures(problem)
    failures.exit()


def report_captions(
    model: object, path: Path, data: CaptionData, result: Evaluation, scoring: options.Scoring, **about: Any
) -> None:
    """Report the scores of a split's captions, with ``about`` in the record; see :func:`report`.

    Writes the scores of every image if requested.
    """
    split = data.images[0].split
    record = {
        "split": split,
        "images": len(result.captions),
        **about,
        "scoring_seconds": result.scoring_seconds,
        "scores": result.scores,
        "notes": result.notes,
        "unreadable": [str(error) for error in result.errors],
    }
    rows = [
        {"image_id": image, "caption": result.captions[image], **values} for image, values in result.per_image.items()
    ]
    report(model, path, f"{data.name}, {split}", record, result.errors, scoring, scoring.per_image, rows)


def _show(title: str, record: dict[str, Any]) -> None:
    """Print the table of a record, if it has scores, the number of images or sentences, and the speed."""
    if "grounding" in record:
        _show_grounding(title, record["grounding"])
    elif record["scores"]:
        intervals = record.get("intervals", {})
        rows = [(name, _percent(value, intervals.get(name))) for name, value in record["scores"].items()]
        _show_table(title, ("metric", "percent"), rows)
    for name, signature in record.get("signatures", {}).items():
        typer.echo(f"{name}: {signature}")
    units = "sentences" if "sentences" in record else "images"
    rate = record.get(f"{units}_per_second")
    typer.echo(console.count(record[units], units[:-1]) + (f", {rate:.1f} {units}/s" if rate else ""))


def _percent(value: float, interval: tuple[float, float] | None) -> str:
    text = f"{100 * value:.1f}"
    return text if interval is None else f"{text} [{', '.join(f'{100 * bound:.1f}' for bound in interval)}]"


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows with the same keys as .json or .csv, by the suffix of the path."""
    if path.suffix.lower() == ".json":
        files.write_json(path, rows)
        return
    with (
        files.atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        write = csv_rows(file, list(rows[0]))
        for row in rows:
            write(row)


def _show_grounding(title: str, grounding: dict[str, Any]) -> None:
    from captioner.evaluation.bootstrap import Interval
    from captioner.evaluation.grounding import GAINS, GROUNDING_METRICS

    def percent(part: str, name: str) -> str:
        score = grounding[part]["scores"].get(name)
        return Interval(**score).percent() if score else "-"

    def by_class(part: str, name: str) -> str:
        if name not in grounding[part]["classes"]:
            return "-"
        words, pointing, mass = grounding[part]["classes"][name]
        return f"{words:,}: {100 * pointing:.0f} / {100 * mass:.0f}"

    parts = ("generated", "references")
    rows = [(name, *(percent(part, name) for part in parts)) for name in (*GROUNDING_METRICS, *GAINS)]
    for label, unit in (
        ("words counted", "words"),
        ("images counted", "photos"),
        ("words of absent classes", "absent"),
    ):
        rows.append((label, *(f"{grounding[part][unit]:,}" for part in parts)))
    _show_table(f"{title}; percent, 95 % intervals", ("", *parts), rows)
    names = list(grounding["references"]["classes"])[:_CLASSES]
    rows = [(name, *(by_class(part, name) for part in parts)) for name in names]
    _show_table("words: pointing / mass, by class", ("class", *parts), rows)


def _show_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Column
    from rich.text import Text

    table = console.table(head[0], *(Column(name, justify="right") for name in head[1:]), title=title)
    for row in rows:
        table.add_row(*map(Text, row))
    console.show(table)
