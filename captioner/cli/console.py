"""Messages of all commands, on stderr, and the style of their tables."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import typer

from captioner.errors import CaptionerError, first_line
from captioner.errors import count as count
from captioner.registry import imported_code

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

_UNFOLDED = 1 << 16  # columns
_log = logging.getLogger("captioner")
_began = time.perf_counter()


@cache
def stderr() -> Console:
    """Return the console of all messages and bars: a line that is printed while a bar is shown appears above the bar.

    rich is imported when something is printed, as it takes long.
    """
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


# Characters that command a terminal: control characters, those that change the direction of text, and bytes that are
# not UTF-8. Joiners stay, since emoji and several scripts need them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Escape the characters that command a terminal, as JSON does."""
    return _UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], text)


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

    console = stderr()
    if exception is not None and _verbosity is Verbosity.VERBOSE:
        lines = "".join(traceback.format_exception(exception)).rstrip().split("\n")
        console.print(Text("\n".join(map(printable, lines))))
    console.print(Text.assemble(("error:", "bold red"), f" {printable(str(message))}"))


def unexpected(exception: Exception) -> None:
    """Print an error that is a bug: of code given with --import, with its line; or of the program, how to report it."""
    what = f"{type(exception).__name__}: {first_line(exception)}; the same command with --verbose shows "
    frames = reversed(traceback.extract_tb(exception.__traceback__))
    own = next((frame for frame in frames if str(Path(frame.filename).resolve()) in imported_code()), None)
    if own is not None:
        error(f"{own.filename}, line {own.lineno}: {what}the calls before it", exception)
    else:
        error(f"unexpected {what}where, and captioner doctor --json prints details for a bug report", exception)


def done() -> None:
    """Log the end of the command, with the time it took, and reset the verbosity."""
    _log.info("done")
    set_verbosity(Verbosity.NORMAL)


def note(message: object) -> None:
    """Print a message on stderr, unless --quiet is given."""
    if _verbosity is not Verbosity.QUIET:
        from rich.text import Text

        stderr().print(Text(printable(str(message))))


def wrote(path: object, what: str) -> None:
    """Print the last note on an output that is not stdout: its path and what it has."""
    note(f"{path}: {what}")


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


def table(*columns: Column | str, title: str = "") -> Table:
    """Return an empty table in the style of all commands: a line below its head, and no other."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    heading = Text(title, "bold") if title else None
    return Table(*columns, title=heading, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)


def show(*tables: Table) -> None:
    """Print tables on stdout, with an empty line between them; where it is not a terminal, a row is one line."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _UNFOLDED)
    for number, each in enumerate(tables):
        if number:
            console.print()
        title, each.title = each.title, None  # rich would fold it to the width of the table
        if title:
            console.print(title, soft_wrap=True)
        console.print(_fold(each))
        each.title = title


def _fold(table: Table) -> Table:
    """Let a table fold what is too wide: names and numbers that are cut could be taken for others."""
    for column in table.columns:
        column.overflow = "fold"
    return table


def show_markdown(text: str) -> None:
    """Print Markdown on stdout: on a terminal laid out, with tables in the style of all commands; else as it is."""
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import Heading, Markdown, TableElement
    from rich.table import Table
    from rich.theme import Theme

    class Title(Heading):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            yield self.text

    class Rows(TableElement):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for drawn in super().__rich_console__(console, options):
                if isinstance(drawn, Table):
                    drawn.box, drawn.show_edge, drawn.collapse_padding = SIMPLE_HEAD, False, False
                    _fold(drawn)
                yield drawn

    class PlainMarkdown(Markdown):
        elements: ClassVar = {**Markdown.elements, "heading_open": Title, "table_open": Rows}

    bold = ("h1", "h2", "h3", "table.header")
    theme = Theme({"markdown.table.border": "none", **{f"markdown.{part}": "bold" for part in bold}})
    Console(highlight=False, emoji=False, theme=theme).print(PlainMarkdown(text))
