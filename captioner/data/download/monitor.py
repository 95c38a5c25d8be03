"""The progress of a download, and its interruption."""

from __future__ import annotations

import threading
from collections.abc import Callable

Progress = Callable[[str, str, int, "int | None"], None]
"""Called with the archive's path, the phase, the bytes done, and the total bytes if known.

The phases are "waiting", "checking", "downloading" and "unpacking".
"""


class StoppedError(Exception):
    """The run was interrupted."""


class Monitor:
    """Reports the progress of one archive, and raises :class:`StoppedError` when the run is interrupted by ``stop``."""

    def __init__(self, path: str, progress: Progress | None, stop: threading.Event) -> None:
        self.path, self.progress, self.stop = path, progress, stop

    def check(self) -> None:
        """Raise if the run is interrupted."""
        if self.stop.is_set():
            raise StoppedError

    def report(self, phase: str, done: int, total: int | None) -> None:
        """Report a step."""
        self.check()
        if self.progress is not None:
            self.progress(self.path, phase, done, total)

    def wait(self, seconds: float) -> None:
        """Sleep until the time is over or the run is interrupted."""
        self.stop.wait(seconds)
        self.check()
