"""Whom a benchmark tells how far it is and what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _nothing(*_: object) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Listener:
    """What is called while a benchmark runs.

    Attributes:
        progress: called with (title of the phase, done, all); all is ``None`` when it is unknown.
        note: called with what is good to know, for example that earlier captions are used again.
        failed: called with the error of a model or photo that is left out, while the others go on.
    """

    progress: Callable[[str, int, int | None], None] = _nothing
    note: Callable[[str], None] = _nothing
    failed: Callable[[str], None] = _nothing

    def bar(self, title: str, before: int = 0, total: int | None = None) -> Callable[[int, int], None]:
        """Return a function to call with (done, all) in a phase.

        Args:
            title: of the phase.
            before: what was done before the first call.
            total: all there is to do; left out, it is what the function is called with.
        """
        return lambda done, every: self.progress(title, before + done, every if total is None else total)
