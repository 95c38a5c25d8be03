"""What commands share: messages and progress on stderr, results on stdout, and some options."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from captioner.data.dataset import CaptionData

messages = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto for the best there is.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads that load pictures.")]
Beam = Annotated[
    int | None, typer.Option(min=1, help="Width of the beam search; 1 is greedy. By default the model's own.")
]
MinWords = Annotated[
    int | None, typer.Option(min=0, help="A sentence may not end before so many words. By default the model's own.")
]
MaxWords = Annotated[
    int | None, typer.Option(min=1, help="A sentence is ended after so many words. By default the model's own.")
]
BlockNgram = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Forbid a sentence to repeat a sequence of so many words; 0 forbids nothing. By default the model's own.",
    ),
]
LengthNormalisation = Annotated[
    float | None,
    typer.Option(
        min=0, help="Power of its length by which a sentence's log-probability is divided. By default the model's own."
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse data with malformed records, which are else left out and reported.")
]


def error(message: object) -> None:
    """Print ``error: message`` on stderr, in one line whatever the terminal's width."""
    messages.print(Text.assemble(("error:", "bold red"), f" {message}"))


def note(message: object) -> None:
    """Print a message on stderr."""
    messages.print(Text(str(message)))


def left_out(data: CaptionData) -> None:
    """Report on stderr the malformed records of a data set that was read without --strict, if there are any."""
    if complaint := data.complaint():
        note(f"{complaint}, --strict refuses them")


class Failures:
    """Reports what is wrong with single things while the others go on."""

    count = 0

    def __call__(self, message: object) -> None:
        """Report and count a failure."""
        error(message)
        self.count += 1

    def exit(self) -> None:
        """Leave the program with code 1 if there was a failure."""
        if self.count:
            raise typer.Exit(1)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Write a value as JSON; readable, but escaped when a file's name in it is not UTF-8."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return (
        text
        if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
        else json.dumps(value, indent=indent)
    )


def talks(stdout: bool) -> bool:
    """Tell whether a progress bar makes sense: on a terminal, and not between the lines that a command prints there."""
    return messages.is_terminal and not (stdout and sys.stdout.isatty())


@contextmanager
def progress(title: str, *, show: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar with the time left, on a terminal alone; gives a function to call with (done, all), all ``None`` if unknown."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Were stdout redirected, results would end up on stderr.
    with Progress(
        *columns, console=messages, transient=True, redirect_stdout=False, disable=not (show and messages.is_terminal)
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def names(lists: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names in lists that are joined by commas, as an option that may be repeated gives them."""
    return tuple(name.strip() for names in lists or () for name in names.split(",") if name.strip())


def settings(**given: Any) -> dict[str, Any]:
    """Return the settings that were given, so that the model's own hold for the others."""
    return {name: value for name, value in given.items() if value is not None}
