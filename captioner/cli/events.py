"""Prints the events of training runs: progress as a bar, notes and warnings as lines, all on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from captioner.cli import console

if TYPE_CHECKING:
    from rich.progress import Progress

    from captioner.training.events import Events


@contextmanager
def printed_events() -> Iterator[Events]:
    """Yield events that are printed; the bar of a phase ends when the next phase begins."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from captioner.training.events import Events

    shown: dict[str, Progress] = {}  # the bar of the current phase

    def end() -> None:
        while shown:
            shown.popitem()[1].stop()

    def progress(title: str, done: int, total: int, details: str) -> None:
        if title not in shown:
            end()
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            text = TextColumn("{task.description}"), TextColumn("{task.fields[details]}")
            shown[title] = Progress(text[0], *columns, text[1], console=console.messages(), refresh_per_second=2)
            shown[title].add_task(title, total=total, details="")
            shown[title].start()
        shown[title].update(shown[title].task_ids[0], completed=done, total=total, details=details)

    try:
        yield Events(progress, console.note, console.note)
    finally:
        end()
