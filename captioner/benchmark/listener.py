"""Callbacks for the progress, notes and errors of a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _ignore(*_: object) -> None: ...


@dataclass(frozen=True)
class Listener:
    """Callbacks that are called while a benchmark runs.

    Attributes:
        progress: called with (title of the phase, done, total); the total is ``None`` if it is unknown.
        note: called with useful information, for example that cached captions are reused.
        failed: called with the error of a model or image that is left out, while the others continue.
    """

    progress: Callable[[str, int, int | None], None] = _ignore
    note: Callable[[str], None] = _ignore
    failed: Callable[[str], None] = _ignore

    def bar(self, title: str, before: int = 0, total: int | None = None) -> Callable[[int, int], None]:
        """Return a function to call with (done, total) during a phase.

        Args:
            title: title of the phase.
            before: the amount done before the first call.
            total: the total amount; if left out, the total that the function is called with.
        """
        return lambda done, count: self.progress(title, before + done, count if total is None else total)
