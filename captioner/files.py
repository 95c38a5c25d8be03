"""Writing files so that no partial one is ever visible: temporary file, fsync, rename."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from captioner.errors import FileError


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
