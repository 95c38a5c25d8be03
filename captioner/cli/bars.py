"""Bars that show the progress of a command on stderr, or lines where that is not a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from captioner.cli import console

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task
    from rich.text import Text

    from captioner.data.download import Progress as FileProgress

_MANY = 50  # items: fewer are not announced


class Progressing(Protocol):
    """Takes the progress of some work."""

    def __call__(self, done: int, total: int | None, details: str = "", /) -> None:
        """Show how much of the total is done."""


def at_once(stdout: bool) -> bool:
    """Return whether to show progress at once; results on stdout show it, unless only stderr is a terminal."""
    return not (stdout and (sys.stdout.isatty() or not sys.stderr.isatty()))


@contextmanager
def progress(title: str, *, show: bool = True) -> Iterator[Progressing]:
    """Show a bar with the rate and the time left; where stderr is not a terminal, print a line a minute.

    Args:
        title: what is done.
        show: ``False`` if results on stdout already show the progress: no bar is drawn, and the first line comes
            after a minute.

    Yields:
        A function to call with (done, total, details); the total is ``None`` if it is unknown, and the details, such as
        the loss, may be left out.
    """
    if not sys.stderr.isatty():
        yield _lines(title, at_once=show)
        return
    if not (show and console.stderr().is_terminal):
        yield lambda done, total, details="": None
        return
    from rich.progress import MofNCompleteColumn, TextColumn

    with _bars(MofNCompleteColumn(), _rate(), TextColumn("{task.fields[details]}", markup=False)) as shown:
        task = shown.add_task(title, total=None, details="")
        yield lambda done, total, details="": shown.update(task, completed=done, total=total, details=details)


class Phases(ExitStack):
    """Progress of several phases, one after the other; call it with (title, done, total, details)."""

    _title: str | None = None

    def __call__(self, title: str, done: int, total: int | None, details: str = "") -> None:
        """Show the progress of a phase, and end the one before."""
        if title != self._title:
            self.close()
            self._show, self._title = self.enter_context(progress(title)), title
        self._show(done, total, details)


def _rate() -> ProgressColumn:
    """Return a column with the items a second."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{_readable(speed)}/s", style="progress.data.speed")

    return Rate()


def _readable(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _lines(title: str, *, at_once: bool, every: float = 60.0) -> Progressing:
    """Return a function that prints the progress from time to time; see :func:`progress`.

    The first line comes with the first call if that has much left to do. The rate is that since the first call, as a
    resumed run has done something before.
    """
    printed = time.monotonic()
    first: tuple[int, float] | None = None

    def show(done: int, total: int | None, details: str = "") -> None:
        nonlocal printed, first
        now = time.monotonic()
        of = "" if total is None else f" of {total:,}"
        if first is None:
            first = done, now
            if at_once and total is not None and total - done >= _MANY:
                printed = now
                console.note(f"{title}: {done:,}{of}")
        if now - printed < every:
            return
        printed = now
        before, began = first
        line = f"{title}: {done:,}{of}"
        if done > before:
            rate = (done - before) / (now - began)
            line += f", {_readable(rate)} a second"
            if total is not None:
                line += f", {timedelta(seconds=round((total - done) / rate))} left"
        console.note(f"{line}{'; ' * bool(details)}{details}")

    return show


def _bars(*columns: ProgressColumn) -> Progress:
    """Return bars with a title, further columns and the time left, only on a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console.stderr(),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else results would go to stderr
        disable=not console.stderr().is_terminal or console.verbosity() is console.Verbosity.QUIET,
    )


@contextmanager
def files() -> Iterator[FileProgress]:
    """Show a bar for each file with its speed and the time left; see :func:`progress`."""
    from rich.progress import DownloadColumn, TaskID, TransferSpeedColumn

    if not console.stderr().is_terminal:
        with ExitStack() as stack:
            lines: dict[str, Progressing] = {}

            def show(path: str, phase: str, done: int, total: int | None) -> None:
                title = f"{phase} {path}, MB"
                if title not in lines:
                    lines[title] = stack.enter_context(progress(title))
                lines[title](round(done / 1e6), None if total is None else round(total / 1e6))

            yield show
        return
    with _bars(DownloadColumn(), TransferSpeedColumn()) as shown:
        tasks: dict[str, TaskID] = {}
        last: dict[str, tuple[str, int]] = {}
        lock = threading.Lock()

        def update(path: str, phase: str, done: int, total: int | None) -> None:
            with lock:
                if path not in tasks:
                    tasks[path] = shown.add_task("", total=None)
                before, reached = last.get(path, ("", 0))
                # The speed is measured again in a new phase, or when the file starts over.
                if phase != before or done < reached:
                    shown.reset(tasks[path], total=total, completed=done, description=f"{phase} {path}")
                last[path] = phase, done
            shown.update(tasks[path], completed=done, total=total)

        yield update
