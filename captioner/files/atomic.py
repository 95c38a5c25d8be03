"""Writes files and folders atomically (temporary file, fsync, rename), and locks folders."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from captioner.errors import CaptionerError, FileError
from captioner.files.disk import bytes_in, check_folder, check_kind, disk_error, find_disk_error, place_error

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked and leftovers of other processes stay
    fcntl = None  # type: ignore[assignment]


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
    with _workplace(path, size) as temporary:
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


def check_editable(path: str | Path) -> None:
    """Check that a file can be replaced by an edited copy without harm to other names or permissions.

    Raises:
        FileError: it is missing, a link, not a regular file, read-only, or has further names (hard links).
    """
    path = Path(path)
    try:
        status = path.lstat()
    except (OSError, ValueError) as error:
        raise place_error(path, error) from error
    if stat.S_ISLNK(status.st_mode):
        raise FileError(f"{path}: is a link to {os.path.realpath(path)}; give that file")
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{path}: is not a regular file, which cannot be replaced; give a file")
    # An administrator may write to read-only files; whoever made them so did not want that.
    if not status.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise FileError(f"{path}: is read-only; change its permissions, or leave it out")
    if status.st_nlink > 1:
        raise FileError(
            f"{path}: has {status.st_nlink} names (hard links), of which only one would change; make a copy of it first"
        )


def same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether two looks at a file found the same content: device, inode, size and time of its last change."""
    fields = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    return all(getattr(one, field) == getattr(other, field) for field in fields)


@contextmanager
def atomic_edit(path: str | Path, seen: os.stat_result, *, keep_times: bool, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path; on success its file replaces ``path``, which exists and has not changed since ``seen``.

    The new file has the owner, the permissions and, where the system shows them, the extended attributes of the old
    one. On an exception, ``path`` stays as it was and the temporary file is removed. After a power cut, either of them
    is there, whole: the folder is not flushed, which takes as long as the file.

    Args:
        path: the file that is edited.
        seen: its status before it was read.
        keep_times: the new file also has the times of the old one.
        size: of the new file in bytes, if known; the error of a full disk names it.

    Raises:
        FileError: the file cannot be edited (:func:`check_editable`), another program has changed it meanwhile, its
            owner cannot be kept, the folder is not writable, or the disk is full or fails.
    """
    path = Path(path)
    check_editable(path)
    with _workplace(path, size) as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield temporary
        with open(temporary, "rb+") as file:
            _inherit(path, seen, temporary, keep_times)
            os.fsync(file.fileno())
        try:
            unchanged = same_file(path.lstat(), seen)
        except FileNotFoundError:
            unchanged = False
        if not unchanged:
            raise FileError(f"{path}: another program has changed it meanwhile, so it was left alone; run this again")
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise place_error(path, error) from error


def _inherit(path: Path, old: os.stat_result, temporary: Path, keep_times: bool) -> None:
    """Give ``temporary`` the owner, permissions, extended attributes and, if wanted, times of ``path``."""
    new = temporary.lstat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.chown(temporary, old.st_uid, old.st_gid)
        except OSError as error:
            raise FileError(
                f"{path}: belongs to another user or group, which a new file cannot; run this as its owner"
            ) from error
    with suppress(OSError):  # some file systems have no extended attributes, or refuse some
        shutil.copystat(path, temporary)
    temporary.chmod(stat.S_IMODE(old.st_mode))
    if keep_times:
        os.utime(temporary, ns=(old.st_atime_ns, old.st_mtime_ns))
    else:
        os.utime(temporary)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it replaces ``folder``, which may exist.

    On an exception, everything stays as it was. A missing parent folder is created.

    Raises:
        FileError: the folder is not writable, or the disk is full or fails.
    """
    folder = Path(folder)
    with _workplace(folder) as temporary:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            old = temporary.parents[1] / _OLD
            old.mkdir()
            folder.rename(old / folder.name)
        temporary.rename(folder)  # if it fails or a kill interrupts, _remove() puts the old folder back
        _sync_folder(folder.parent)


_WORKPLACE = re.compile(r"\.captioner-[0-9a-f]{16}\.tmp")
_LOCK, _NEW, _OLD = "lock", "new", "old"
_cleared: set[Path] = set()  # folders without leftovers


@contextmanager
def _workplace(path: Path, size: int = 0) -> Iterator[Path]:
    """Yield a free path in a hidden folder beside ``path``, with the same name.

    The hidden folder is removed at the end. This process locks a file in it. A killed process therefore leaves an
    unlocked one, which the next writer to the same folder removes.

    Raises:
        FileError: see :func:`atomic_path`.
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


def _make_hidden(folder: Path) -> tuple[Path, int]:
    """Make a hidden folder and lock it; return it and the open file of the lock."""
    while True:
        hidden = folder / f".captioner-{os.urandom(8).hex()}.tmp"
        hidden.mkdir(0o700)
        try:
            lock = _lock(hidden / _LOCK)
            (hidden / _NEW).mkdir()
        except FileNotFoundError:  # another process removed it before it was locked
            continue
        except BaseException:
            _remove(hidden)
            raise
        if lock is not None:
            return hidden, lock


def _lock(path: Path, *, surely: bool = False) -> int | None:
    """Lock a file, which is created if missing, until it is closed or the process ends.

    Args:
        path: the file.
        surely: raise an error if the file system has no locks, instead of only opening the file.

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


_WAIT = "wait until it has ended, or give another"


@contextmanager
def _locked(what: Path, path: Path, taken: CaptionerError) -> Iterator[None]:
    """Lock the file ``path`` or raise ``taken``; the folders that it needs are made, and removed if they stay empty."""
    check_folder(path)
    made = [each for each in path.parents if not each.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
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


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty folder among the system's temporary files, and remove it at the end.

    Raises:
        FileError: the folder is not writable, or the disk is full or fails.
    """
    import tempfile

    with _workplace(Path(tempfile.gettempdir()) / "captioner") as folder:
        folder.mkdir()
        yield folder


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
                lock = _lock(Path(entry.path) / _LOCK, surely=True)
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


def check_place(path: str | Path) -> None:
    """Check, without making it, that a file or folder can be made at ``path``.

    Raises:
        FileError: its parent is a file or not writable, or the file system refuses its name.
    """
    path = Path(path)
    check_kind(path)
    remove_leftovers(check_folder(path))


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
