"""Scores as tables on the screen and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from captioner import files
from captioner.rows import csv_rows

_CLASSES = 12  # classes in the table of grounding, those with most words in the references


def show(title: str, record: dict[str, Any]) -> None:
    """Print the record of an evaluation: its table, if it has scores, and how much was evaluated how fast."""
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
    typer.echo(f"{record[units]:,} {units}" + (f", {rate:.1f} {units}/s" if rate else ""))


def _percent(value: float, interval: tuple[float, float] | None) -> str:
    text = f"{100 * value:.1f}"
    return text if interval is None else f"{text} [{', '.join(f'{100 * bound:.1f}' for bound in interval)}]"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
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

    def count(part: str, unit: str) -> str:
        return f"{grounding[part][unit]:,}"

    def by_class(part: str, name: str) -> str:
        if name not in grounding[part]["classes"]:
            return "-"
        words, pointing, mass = grounding[part]["classes"][name]
        return f"{words:,}: {100 * pointing:.0f} / {100 * mass:.0f}"

    parts = ("generated", "references")
    rows = [(name, *(percent(part, name) for part in parts)) for name in (*GROUNDING_METRICS, *GAINS)]
    for label, unit in (
        ("words counted", "words"),
        ("photos counted", "photos"),
        ("words of absent classes", "absent"),
    ):
        rows.append((label, *(count(part, unit) for part in parts)))
    _show_table(f"{title}; percent, 95 % intervals", ("", *parts), rows)
    names = list(grounding["references"]["classes"])[:_CLASSES]
    rows = [(name, *(by_class(part, name) for part in parts)) for name in names]
    _show_table("words: pointing / mass, by class", ("class", *parts), rows)


def _show_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
