"""Hidden folders in which files are written before they replace others; those of killed processes are removed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from captioner.files.disk import bytes_in, check_folder, disk_error, find_disk_error, place_error
from captioner.files.locks import try_lock

_WORKPLACE = re.compile(r"\.captioner-[0-9a-f]{16}\.tmp")
_LOCK, _NEW, _OLD = "lock", "new", "old"
_cleared: set[Path] = set()  # folders without leftovers


@contextmanager
def workplace(path: Path, size: int = 0) -> Iterator[Path]:
    """Yield a free path in a hidden folder next to ``path``, with the same name.

    The hidden folder is removed at the end. This process locks a file in it. A killed process therefore leaves an
    unlocked one, which the next writer to the same folder removes.

    Raises:
        FileError: the folder of ``path`` is not writable, or the disk is full or fails.
    """
    check_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        hidden, lock = _make_hidden(path.parent)
    except OSError as error:
        raise place_error(path, error) from error
    try:
        yield hidden / _NEW / path.name
    except Exception as error:
        found = find_disk_error(error, hidden)
        written = bytes_in(hidden)
        _remove(hidden)
        if found is None:
            raise
        code, name = found
        raise disk_error(name or path, code, needed=max(written, size, bytes_in(path))) from error
    finally:
        os.close(lock)
        _remove(hidden)


def put_aside(path: Path, temporary: Path) -> None:
    """Move ``path`` into the hidden folder of ``temporary``, which is to replace it, or else it is put back."""
    old = temporary.parents[1] / _OLD
    old.mkdir()
    path.rename(old / path.name)


def _make_hidden(folder: Path) -> tuple[Path, int]:
    """Make a hidden folder and lock it; return it and the open file of the lock."""
    while True:
        hidden = folder / f".captioner-{os.urandom(8).hex()}.tmp"
        hidden.mkdir(0o700)
        try:
            lock = try_lock(hidden / _LOCK)
            (hidden / _NEW).mkdir()
        except FileNotFoundError:  # another process removed it before it was locked
            continue
        except BaseException:
            _remove(hidden)
            raise
        if lock is not None:
            return hidden, lock


def remove_leftovers(folder: Path) -> None:
    """Remove the leftovers of killed processes in a folder, once per process."""
    folder = folder.absolute()
    if folder in _cleared:
        return
    _cleared.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _WORKPLACE.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                continue
            if hasattr(os, "getuid") and entry.stat(follow_symlinks=False).st_uid != os.getuid():
                continue
            with suppress(OSError):  # the file system has no locks
                lock = try_lock(Path(entry.path) / _LOCK, surely=True)
                if lock is not None:
                    _remove(Path(entry.path))
                    os.close(lock)


def _remove(hidden: Path) -> None:
    """Remove a hidden folder; first put back the old folder of an interrupted replacement."""
    with suppress(OSError):
        for old in (hidden / _OLD).iterdir():
            target = hidden.parent / old.name
            if not target.exists():
                old.rename(target)
    shutil.rmtree(hidden, ignore_errors=True)
