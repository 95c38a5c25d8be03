"""Shared by the commands: results on stdout, messages and progress on stderr, and common options."""

from __future__ import annotations

import codecs
import errno
import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TextIO, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from captioner import files
from captioner.cli import complete
from captioner.errors import CaptionerError, FileError, first_line
from captioner.rows import json_text as json_text

if TYPE_CHECKING:
    from captioner.data.dataset import CaptionData

messages = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
_errors = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)  # these are printed when quiet, too
_log = logging.getLogger("captioner")
_began = time.perf_counter()

# What a terminal obeys instead of showing it: control characters, and those that change the direction of what follows;
# and bytes that are not UTF-8. Joiners stay, since emoji and several scripts need them.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Escape the characters that a terminal would obey, as JSON does."""
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handle what an encoding lacks: bytes of file names are written unchanged, and characters escaped as in JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    is_byte = "\udc80" <= letter <= "\udcff"
    return bytes([ord(letter) - 0xDC00]) if is_byte else json.dumps(letter)[1:-1], error.start + 1


codecs.register_error("captioner", _escaped)


class _Stream:
    """A standard stream that never raises, so that no work is lost because its results cannot be printed.

    Attributes:
        failure: why nothing more can be written to it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.failure: Exception | None = None
        self._is_closed = stream is None
        # Where a standard stream is closed, the null device takes its number, or the next file that is opened would.
        self._stream = stream if stream is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # for those that would write around this
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._is_closed and text:
            self.failure = OSError(errno.EBADF, "it is closed")
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, function: Callable[..., Any], *arguments: str) -> None:
        if self.failure is not None:
            return
        try:
            function(*arguments)
        except (OSError, ValueError) as error:  # ValueError: it was closed meanwhile
            self.failure = error
            # Python would try again at exit, and fail, with a code of its own.
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Print on stdout and stderr without failing, and exit with 1 if results were lost.

    A reader that has closed the pipe, like ``head``, has all it wants, so nothing is reported then.
    """
    before = sys.stdout, sys.stderr
    streams = [_Stream(stream) for stream in before]
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="captioner")
    try:
        yield
    except SystemExit as exit:
        sys.stdout.flush()
        if lost() is None:
            raise
        if not isinstance(lost(), BrokenPipeError):
            reason = getattr(lost(), "strerror", None) or lost()
            error(f"standard output: cannot be written ({reason}), and results were lost; write them to another place")
        raise SystemExit(exit.code or 1) from None
    finally:
        sys.stdout, sys.stderr = before


def lost() -> Exception | None:
    """Return why stdout can no longer be written, if so; what is printed is dropped then."""
    return getattr(sys.stdout, "failure", None)


def show(*cells: str) -> None:
    """Print a line of results on stdout, with tabs between its cells.

    On a terminal, what it would obey is escaped, since file names may hold anything.
    """
    print(*map(printable, cells) if sys.stdout.isatty() else cells, sep="\t", flush=True)


def show_json(value: Any, *, indent: int | None = None) -> None:
    """Print a result as JSON on stdout; see :func:`show`."""
    text = json_text(value, indent=indent)
    print("\n".join(map(printable, text.split("\n"))) if sys.stdout.isatty() else text, flush=True)


def stdin() -> BinaryIO:
    """Return standard input, with a hint if a person is to type it.

    Raises:
        CaptionerError: it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise CaptionerError(
            "standard input: is closed; pipe something into this command, or give something else than -"
        )
    if sys.stdin.isatty():
        note("reading lines from the terminal; Ctrl-D on an empty line ends them")
    return sys.stdin.buffer


class Verbosity(Enum):
    """How much a command prints on stderr: only errors, also notes and progress, or also what the library logs."""

    QUIET = logging.ERROR
    NORMAL = logging.WARNING
    VERBOSE = logging.INFO


class _Handler(logging.Handler):
    """Prints what the library logs, after the seconds since the program started."""

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
    messages.quiet = verbosity is Verbosity.QUIET
    _log.setLevel(verbosity.value)
    _log.removeHandler(_handler)
    if verbosity is Verbosity.VERBOSE:
        _log.addHandler(_handler)


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", name):
        raise typer.BadParameter(f"{name!r} is none of cpu, cuda, cuda:1 (or another number), mps and auto")
    return name


Device = Annotated[
    str,
    typer.Option(
        autocompletion=complete.devices,
        callback=_device,
        help="cpu, cuda, cuda:1, mps, or auto for the best available.",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Threads that load pictures.")]
Beam = Annotated[
    int | None, typer.Option(min=1, help="Width of the beam search; 1 is greedy. By default the model's own.")
]
MinWords = Annotated[
    int | None, typer.Option(min=0, help="Minimum number of words in a sentence. By default the model's own.")
]
MaxWords = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of words in a sentence. By default the model's own.")
]
BlockNgram = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Do not repeat a sequence of this many words in a sentence; 0 allows it. By default the model's own.",
    ),
]
LengthNormalisation = Annotated[
    float | None,
    typer.Option(
        min=0, help="Divide a sentence's log-probability by this power of its length. By default the model's own."
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse data with malformed records, which are otherwise left out and reported."),
]


def error(message: object, exception: BaseException | None = None) -> None:
    """Print ``error: message`` on stderr, on one line whatever the terminal's width.

    When verbose, an exception from outside the program, or one from there beneath an error of ours, has its traceback
    printed first.

    Args:
        message: what to print.
        exception: what the message tells of, if it is no exception itself.
    """
    if exception is None and isinstance(message, BaseException):
        exception = message
    if isinstance(exception, CaptionerError):
        exception = exception.__cause__ or exception.__context__
    if exception is not None and _verbosity is Verbosity.VERBOSE:
        lines = "".join(traceback.format_exception(exception)).rstrip().split("\n")
        _errors.print(Text("\n".join(map(printable, lines))))
    _errors.print(Text.assemble(("error:", "bold red"), f" {printable(str(message))}"))


def unexpected(exception: Exception) -> None:
    """Print an error that is the program's fault, with what helps to mend it."""
    error(
        f"unexpected {type(exception).__name__}: {first_line(exception)}; the same command with --verbose shows where, "
        "and captioner doctor --json what a report of it should contain",
        exception,
    )


def done() -> None:
    """Say how long the command took, when verbose, which the next one is not unless it says so."""
    _log.info("done")
    set_verbosity(Verbosity.NORMAL)


def note(message: object) -> None:
    """Print a message on stderr."""
    messages.print(Text(printable(str(message))))


def left_out(data: CaptionData) -> None:
    """Report any malformed records of a data set that was read without --strict on stderr."""
    for guess in data.notes:
        note(guess)
    if complaint := data.complaint():
        note(f"{complaint}, --strict refuses them")


class Failures:
    """Reports and counts failures of single items while the others go on."""

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
    """Return whether to show a progress bar: on a terminal, unless the command prints its results there too.

    Args:
        stdout: whether the command prints results while the bar is shown.
    """
    return messages.is_terminal and not (stdout and sys.stdout.isatty())


@contextmanager
def progress(title: str, *, show: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar with the time left, only on a terminal.

    Yields:
        A function to call with (done, total); the total is ``None`` if it is unknown.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # rich would otherwise redirect what is printed on stdout to stderr.
    with Progress(
        *columns, console=messages, transient=True, redirect_stdout=False, disable=not (show and messages.is_terminal)
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def names(lists: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names in comma-separated lists, as given by an option that may be repeated."""
    return tuple(name.strip() for names in lists or () for name in names.split(",") if name.strip())


def ensemble(models: Sequence[str] | None) -> str | None:
    """Return the name of the ensemble of the models that an option names when it is repeated; ``None`` without any."""
    from captioner.folders import join

    return join(models) if models else None


def metrics(lists: Sequence[str] | None) -> tuple[str, ...]:
    """Return the metrics in comma-separated lists, see :func:`names`.

    Raises:
        EvaluationError: one of them does not exist.
    """
    from captioner.evaluation.metrics import metric_families

    chosen = names(lists)
    if chosen:
        metric_families(chosen)
    return chosen


def writable(path: Path | None) -> Path | None:
    """Check that what an option names can be written, before any work is done; a callback of options.

    Raises:
        typer.BadParameter: it cannot.
    """
    if path is not None:
        try:
            files.check_place(path)
        except FileError as error:
            raise typer.BadParameter(str(error)) from None
    return path


def check_output(output: Path, *inputs: str | Path) -> None:
    """Check that writing an output does not destroy what it is made from.

    Raises:
        CaptionerError: it is one of the inputs.
    """
    for given in inputs:
        with suppress(OSError, ValueError):
            if os.path.samefile(output, given):
                raise CaptionerError(f"{output}: is also an input, which would be overwritten; give another name")


def check_recipe(name_or_path: str, changes: Sequence[str]) -> None:
    """Check that a recipe, or a data set in its place, and ``key=value`` changes can be read, before torch is imported.

    Raises:
        ConfigError: it cannot be read, or a change has another form.
        AnnotationError: a data set in its place cannot be read.
    """
    from captioner.settings import find_recipe, is_data, override, read_yaml

    override({}, changes)
    if is_data(name_or_path):
        from captioner.data.annotations import read_captions

        read_captions(name_or_path)
    else:
        read_yaml(find_recipe(name_or_path))


def search(
    beam: int | None = None,
    length_normalisation: float | None = None,
    min_words: int | None = None,
    max_words: int | None = None,
    block_ngram: int | None = None,
    n_best: int | None = None,
) -> dict[str, Any]:
    """Return the settings of the search that were given as options; the model's own apply to the others.

    Raises:
        typer.BadParameter: two of them contradict each other.
    """
    if beam is not None and n_best is not None and n_best > beam:
        raise typer.BadParameter(f"more than the beam's width, {beam}; give a wider --beam", param_hint="--n-best")
    if min_words is not None and max_words is not None and min_words > max_words:
        raise typer.BadParameter(f"more than --max-words, {max_words}", param_hint="--min-words")
    settings = {
        "width": beam,
        "length_normalisation": length_normalisation,
        "min_words": min_words,
        "max_words": max_words,
        "block_ngram": block_ngram,
        "n_best": n_best,
    }
    return {name: value for name, value in settings.items() if value is not None}
