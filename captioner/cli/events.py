"""Prints the events of training runs: progress as a bar, notes and warnings as lines, all on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from captioner.cli import bars, console

if TYPE_CHECKING:
    from captioner.training.events import Events


@contextmanager
def printed_events() -> Iterator[Events]:
    """Yield events that are printed; the bar of a phase ends when the next phase begins."""
    from captioner.training.events import Events

    with bars.Phases() as phases:
        yield Events(phases, console.note, console.note)
