"""Reports from a download's threads, and how its run is interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable

Progress = Callable[[str, str, int, "int | None"], None]
"""Called with the archive's path, the phase, the bytes done, and the bytes in all if they are known.

The phases are "waiting", "checking", "downloading" and "unpacking".
"""


class StoppedError(Exception):
    """The run was interrupted."""


class Monitor:
    """Reports what happens to one archive, and raises :class:`StoppedError` in it when the run is interrupted.

    Args:
        path: the archive's path.
        progress: called at every step.
        stop: set when the run is interrupted.
    """

    def __init__(self, path: str, progress: Progress, stop: threading.Event) -> None:
        self.path, self.progress, self.stop = path, progress, stop

    def check(self) -> None:
        """Raise if the run is interrupted."""
        if self.stop.is_set():
            raise StoppedError

    def report(self, phase: str, done: int, total: int | None) -> None:
        """Report a step."""
        self.check()
        self.progress(self.path, phase, done, total)

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond an interruption."""
        self.stop.wait(seconds)
        self.check()
