"""Writes files so that no partial one is visible (temporary file, fsync, rename); reads small ones within bounds."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from captioner.errors import CaptionerError, FileError, first_line

T = TypeVar("T")

MOST_TEXT = 64 << 20
"""Bytes of a config, an index or a vocabulary, beyond which it is refused unread."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it to ``path``.

    On an exception ``path`` stays as it was and the temporary file is removed. A missing parent folder is created.

    Raises:
        FileError: nothing can be written there.
    """
    path = Path(path)
    check_place(path)
    # Created by open() and not by tempfile, so that it has the usual permissions of a new file. Its name is short,
    # since that of ``path`` may be as long as the system allows.
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise FileError(f"{path}: cannot be written there ({error.strerror}); give another place") from error
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def check_place(path: str | Path) -> None:
    """Check that a file or folder can be made at ``path``, as far as can be seen without making it.

    Raises:
        FileError: it would be in a file, or in a folder that must not be written to.
    """
    path = Path(path)
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir():
        raise FileError(f"{path}: {there.name} is a file, not a folder; give another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FileError(
            f"{path}: the folder {there} must not be written to; give another place, or change its permissions"
        )


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON, completely or not at all."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_text(
    path: str | Path,
    *,
    error: type[CaptionerError],
    cure: str = "copy it again",
    most: int | None = MOST_TEXT,
    encoding: str = "utf-8",
) -> str:
    """Read a text file that this program or its user wrote, within bounds.

    Args:
        path: a regular file.
        error: the class of errors to raise.
        cure: what to do about a damaged file; ends the error's message.
        most: bytes beyond which the file is refused unread; ``None`` is no limit.
        encoding: of the text.

    Raises:
        CaptionerError: of class ``error``: the file is missing, not a regular file, too large, or not text.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
            raise error(f"{path}: is not a regular file; {cure}")
        if most is not None and status.st_size > most:
            raise error(f"{path}: has {status.st_size:,} bytes, more than the {most:,} that are read; {cure}")
        return Path(path).read_bytes().decode(encoding)
    except FileNotFoundError:
        raise error(f"{path}: there is no such file; {cure}") from None
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}); {cure}") from None
    except UnicodeDecodeError as reason:
        raise error(f"{path}: is not {encoding} text ({reason.reason} at byte {reason.start:,}); {cure}") from None
    except ValueError as reason:  # a zero byte in the name
        raise error(f"{path!r}: cannot be a file's name ({reason}); {cure}") from None


def parse_json(text: str, kind: type[T], *, where: str | Path, error: type[CaptionerError], cure: str) -> T:
    """Parse JSON and check the type of its outermost value.

    Args:
        text: the JSON.
        kind: ``dict`` or ``list``.
        where: names the source in the error, for example a path.
        error: the class of errors to raise.
        cure: what to do about it; ends the error's message.

    Raises:
        CaptionerError: of class ``error``: it is not JSON, nested too deeply, or another type.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise error(f"{where}: its JSON is nested too deeply; {cure}") from None
    except ValueError as reason:  # also of an integer with thousands of digits
        raise error(f"{where}: is not JSON ({first_line(reason)}); {cure}") from None
    if not isinstance(value, kind):
        names: dict[type, str] = {dict: "an object", list: "a list", type(None): "null"}
        found, wanted = (names.get(each, each.__name__) for each in (type(value), kind))
        raise error(f"{where}: its JSON is {found}, not {wanted}; {cure}")
    return value


def read_json(
    path: str | Path,
    kind: type[T],
    *,
    error: type[CaptionerError],
    cure: str = "copy it again",
    most: int | None = MOST_TEXT,
    encoding: str = "utf-8",
) -> T:
    """Read a JSON file within bounds and check the type of its outermost value.

    See :func:`read_text` and :func:`parse_json`; a reader checks the fields inside.

    Raises:
        CaptionerError: of class ``error``: the file cannot be read, or is not such JSON.
    """
    return parse_json(
        read_text(path, error=error, cure=cure, most=most, encoding=encoding), kind, where=path, error=error, cure=cure
    )


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, on file systems that can sync a folder."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def format_of(path: str | Path) -> str:
    """Return the format in a file's name, which may be unknown or empty."""
    kind = Path(path).suffix.lower().removeprefix(".")
    return "html" if kind == "htm" else kind
