"""Locks of files and folders: one process at a time."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from captioner.errors import CaptionerError, FileError
from captioner.files.disk import check_folder, place_error

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked and leftovers of other processes stay
    fcntl = None  # type: ignore[assignment]

_WAIT = "wait until it has ended, or give another"


def try_lock(path: Path, *, surely: bool = False) -> int | None:
    """Lock a file, which is created if missing, until it is closed or the process ends.

    Args:
        path: the file.
        surely: raise an error if the file system has no locks; otherwise the file is then only opened.

    Returns:
        The open file, or ``None`` if another process has the lock.

    Raises:
        OSError: it cannot be opened or locked.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif surely:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:  # the owner of the lock has removed the file
            pass
        except OSError as error:
            if not surely and error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                return handle
            os.close(handle)
            raise
        os.close(handle)


@contextmanager
def only_one(folder: str | Path, *, error: type[CaptionerError], work: str) -> Iterator[None]:
    """Lock a folder, which is created if missing, for one process.

    Args:
        folder: the folder.
        error: the class of errors to raise.
        work: a verb for the error, for example "trains".

    Raises:
        CaptionerError: of class ``error``: another process has locked it.
        FileError: the folder is not writable.
    """
    folder = Path(folder)
    with _locked(folder, folder / ".captioner.lock", error(f"{folder}: another process {work} there; {_WAIT} folder")):
        yield


@contextmanager
def only_writer(path: str | Path, *, error: type[CaptionerError]) -> Iterator[None]:
    """Lock a file, which need not exist, for one process; see :func:`only_one`."""
    path = Path(path)
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]  # a longer one could be too long
    lock = path.parent / f".captioner-{name}.lock"
    with _locked(path, lock, error(f"{path}: another process writes it; {_WAIT} file")):
        yield


@contextmanager
def _locked(what: Path, path: Path, taken: CaptionerError) -> Iterator[None]:
    """Lock the file ``path`` or raise ``taken``; the folders that it needs are made, and removed if they stay empty."""
    check_folder(what)
    if what.is_file() and what in path.parents:
        raise FileError(f"{what}: is a file, not a folder; give another place")
    made = [each for each in path.parents if not each.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(path)
    except OSError as reason:
        raise place_error(what, reason) from reason
    if lock is None:
        raise taken
    try:
        yield
    finally:
        with suppress(OSError):  # before the lock ends: nobody can lock a file that is gone
            path.unlink()
        os.close(lock)
        with suppress(OSError):  # it is not empty
            for each in made:
                each.rmdir()
