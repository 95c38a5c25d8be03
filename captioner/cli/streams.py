"""Standard streams: results on stdout, which may be closed, full or a terminal, and lines from stdin."""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TextIO, cast

from captioner.cli import console
from captioner.cli.console import printable
from captioner.errors import CaptionerError
from captioner.files import json_text

_ENDS = re.compile("[\t-\r\x1c-\x1e\x85\u2028\u2029]")  # those of str.splitlines(), and tabs
_AMBIGUOUS = re.compile(f'^"|: |{_ENDS.pattern}')


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handle characters that an encoding lacks: JSON escapes, and unchanged bytes for those of file names."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    is_byte = "\udc80" <= letter <= "\udcff"
    return bytes([ord(letter) - 0xDC00]) if is_byte else json.dumps(letter)[1:-1], error.start + 1


codecs.register_error("captioner", _escape)


class _Stream:
    """A standard stream that never raises, so a command finishes its work even if its results cannot be printed.

    Attributes:
        failure: the first error of writing; nothing is written after it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.failure: Exception | None = None
        self._is_closed = stream is None
        # Where a standard stream is closed, the null device takes its number, or the next file that is opened would.
        self._stream = stream if stream is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # writing to it would bypass this class
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
            # Python would try again at exit, and fail with another code.
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Print on stdout and stderr without failing, and exit with 1 if results were lost.

    Reports the loss, unless the reader has closed the pipe, as ``head`` does.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Stream(stream)) for stream in before)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="captioner")
    try:
        yield
    except SystemExit as exit:
        sys.stdout.flush()
        failure = lost()
        if failure is None:
            raise
        if not isinstance(failure, BrokenPipeError):
            reason = getattr(failure, "strerror", None) or failure
            console.error(
                f"standard output: cannot be written ({reason}), and results were lost; write them to another place"
            )
        raise SystemExit(exit.code or 1) from None
    finally:
        sys.stdout, sys.stderr = before


def lost() -> Exception | None:
    """Return the error after which stdout drops everything; ``None`` if there was none."""
    return getattr(sys.stdout, "failure", None)


def quoted(name: str) -> str:
    """Return a name that begins a line, as a JSON string if it could be read as more or less than this name."""
    return json_text(name) if _AMBIGUOUS.search(name) else name


def show(*cells: str) -> None:
    """Print a line of results on stdout, with tabs between its cells.

    Line ends and tabs in a cell are escaped, and on a terminal all control characters.
    """
    print(*map(printable if sys.stdout.isatty() else _on_one_line, cells), sep="\t", flush=True)


def _on_one_line(text: str) -> str:
    return _ENDS.sub(lambda found: json.dumps(found[0])[1:-1], text)


def show_json(value: Any, *, indent: int | None = None) -> None:
    """Print a result as JSON on stdout; see :func:`show`."""
    text = json_text(value, indent=indent)
    print("\n".join(map(printable, text.split("\n"))) if sys.stdout.isatty() else text, flush=True)


def stdin() -> BinaryIO:
    """Return standard input; print a hint if it is a terminal.

    Raises:
        CaptionerError: it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise CaptionerError(
            "standard input: is closed; pipe something into this command, or give something else than -"
        )
    if sys.stdin.isatty():
        console.note("reading lines from the terminal; Ctrl-D on an empty line ends them")
    return sys.stdin.buffer
