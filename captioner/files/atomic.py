"""Writing files and folders atomically (temporary file, fsync, rename)."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from captioner.errors import FileError
from captioner.files.disk import check_folder, check_kind
from captioner.files.hidden import put_aside, remove_leftovers, workplace

_ESCAPED = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


@contextmanager
def atomic_path(path: str | Path, *, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path; on success flush its file to disk and rename it to ``path``.

    On an exception, ``path`` stays as it was and the temporary file is removed. A missing parent folder is created.

    Args:
        path: the file to write.
        size: its size in bytes, if known; the error of a full disk names it.

    Raises:
        FileError: the folder is not writable, or the disk is full or fails.
    """
    path = Path(path)
    check_kind(path)
    with workplace(path, size) as temporary:
        # open() and not tempfile, which would not give it the usual permissions of a new file.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        with open(temporary, "rb+") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != mode:  # a library has replaced the file
                temporary.chmod(mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)


@contextmanager
def atomic_folder(folder: str | Path, *, ours: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it replaces ``folder``, which may exist, or that which it links to.

    On an exception, everything stays as it was. A missing parent folder is created.

    Args:
        folder: its path.
        ours: names of what the caller writes into such a folder. Anything else in it stays, such as ``.git``.

    Raises:
        FileError: the folder is not writable, or the disk is full or fails.
    """
    folder = Path(os.path.realpath(folder))
    with workplace(folder) as temporary:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            for other in folder.iterdir():
                if other.name not in ours and not (temporary / other.name).exists():
                    _copy(other, temporary / other.name)
            put_aside(folder, temporary)
        temporary.rename(folder)
        _sync_folder(folder.parent)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty folder among the system's temporary files, and remove it at the end.

    Raises:
        FileError: the folder is not writable, or the disk is full or fails.
    """
    import tempfile

    with workplace(Path(tempfile.gettempdir()) / "captioner") as folder:
        folder.mkdir()
        yield folder


def check_place(path: str | Path) -> None:
    """Check, without making it, that a file or folder can be made at ``path``.

    Raises:
        FileError: its parent is a file or not writable, or the file system refuses its name.
    """
    path = Path(path)
    check_kind(path)
    remove_leftovers(check_folder(path))


def check_folder_place(folder: str | Path) -> None:
    """Check, without making it, that :func:`atomic_folder` can make or replace ``folder``; see :func:`check_place`.

    Raises:
        FileError: it cannot, or the program works in it.
    """
    check_place(folder)
    working = Path(os.path.realpath("."))
    if Path(os.path.realpath(folder)) in (working, *working.parents):
        raise FileError(f"{folder}: cannot be replaced while the program works in it; change to another folder")


def write_text(path: str | Path, text: str) -> None:
    r"""Write ``text`` as UTF-8, completely or not at all; a byte of a name that is not UTF-8 becomes ``\udce9``."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON, completely or not at all; see :func:`json_text`."""
    write_text(path, json_text(value, indent=indent) + "\n")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON, escaped only if it contains bytes that are not UTF-8, or line ends of Unicode."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text if text.isascii() or not _ESCAPED.search(text) else json.dumps(value, indent=indent)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, on file systems that can sync a folder."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
