"""Messages and progress of all commands, on stderr."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING

import typer

from captioner.errors import CaptionerError, first_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task
    from rich.text import Text

_log = logging.getLogger("captioner")
_began = time.perf_counter()


@cache
def _console(of: str) -> Console:
    """Return the console on stderr of errors or of messages. rich is imported when one is printed, as it takes long."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def messages() -> Console:
    """Return the console of notes and bars; it is silent with --quiet."""
    console = _console("messages")
    console.quiet = _verbosity is Verbosity.QUIET
    return console


# Characters that command a terminal: control characters, those that change the direction of text, and bytes that are
# not UTF-8. Joiners stay, since emoji and several scripts need them.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Escape the characters that command a terminal, as JSON does."""
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


class Verbosity(Enum):
    """The output of a command on stderr: only errors; also notes and progress; or also the library's log."""

    QUIET = logging.ERROR
    NORMAL = logging.WARNING
    VERBOSE = logging.INFO


class _Handler(logging.Handler):
    """Prints the library's log, with the seconds since the start of the program."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{time.perf_counter() - _began:6.2f} s  {record.getMessage()}")


_handler = _Handler()
_verbosity = Verbosity.NORMAL


def verbosity() -> Verbosity:
    """Return how much is printed on stderr."""
    return _verbosity


def set_verbosity(verbosity: Verbosity) -> None:
    """Set how much is printed on stderr from now on."""
    global _verbosity
    _verbosity = verbosity
    _log.setLevel(verbosity.value)
    _log.removeHandler(_handler)
    if verbosity is Verbosity.VERBOSE:
        _log.addHandler(_handler)


def error(message: object, exception: BaseException | None = None) -> None:
    """Print ``error: message`` on one line of stderr, for a text or an exception.

    With --verbose, print the traceback of the exception first, or that of the cause of a :class:`CaptionerError`.
    """
    if exception is None and isinstance(message, BaseException):
        exception = message
    if isinstance(exception, CaptionerError):
        exception = exception.__cause__ or exception.__context__
    from rich.text import Text

    console = _console("errors")
    if exception is not None and _verbosity is Verbosity.VERBOSE:
        lines = "".join(traceback.format_exception(exception)).rstrip().split("\n")
        console.print(Text("\n".join(map(printable, lines))))
    console.print(Text.assemble(("error:", "bold red"), f" {printable(str(message))}"))


def unexpected(exception: Exception) -> None:
    """Print an error that is a bug of the program, and how to report it."""
    error(
        f"unexpected {type(exception).__name__}: {first_line(exception)}; the same command with --verbose shows where, "
        "and captioner doctor --json prints details for a bug report",
        exception,
    )


def done() -> None:
    """Log the end of the command, with the time it took, and reset the verbosity."""
    _log.info("done")
    set_verbosity(Verbosity.NORMAL)


def note(message: object) -> None:
    """Print a message on stderr, unless --quiet is given."""
    if _verbosity is not Verbosity.QUIET:
        from rich.text import Text

        messages().print(Text(printable(str(message))))


class Failures:
    """Reports and counts the failures of single items; the command continues with the others."""

    count = 0

    def __call__(self, message: object) -> None:
        """Report and count a failure."""
        error(message)
        self.count += 1

    def exit(self) -> None:
        """Exit with code 1 if there was a failure."""
        if self.count:
            raise typer.Exit(1)


def shows_progress(stdout: bool) -> bool:
    """Return whether to show a progress bar: on a terminal, unless results go to stdout and that is one too."""
    return not (stdout and sys.stdout.isatty()) and messages().is_terminal


@contextmanager
def progress(title: str, *, show: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar with the rate and the time left; where stderr is not a terminal, print a line a minute.

    Yields:
        A function to call with (done, total); the total is ``None`` if it is unknown.
    """
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    if not (show and messages().is_terminal):
        yield lambda done, total: None
        return
    from rich.progress import MofNCompleteColumn

    with bars(MofNCompleteColumn(), _rate()) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


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


def _lines(title: str, *, every: float = 60.0) -> Callable[[int, int | None], None]:
    """Return a function that prints the progress from time to time; see :func:`progress`."""
    began = printed = time.monotonic()

    def show(done: int, total: int | None) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed < every:
            return
        printed = now
        rate = done / (now - began)
        of, left = "", ""
        if total is not None:
            of = f" of {total:,}"
            left = f", {timedelta(seconds=round((total - done) / rate))} left" if rate else ""
        note(f"{title}: {done:,}{of}, {_readable(rate)} a second{left}")

    return show


def bars(*columns: ProgressColumn) -> Progress:
    """Return bars with a title, further columns and the time left, only on a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=messages(),
        transient=True,
        redirect_stdout=False,  # to stderr
        disable=not messages().is_terminal,
    )
