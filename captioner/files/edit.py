"""Replacing existing files by edited ones with the same owner and permissions."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from captioner.errors import FileError
from captioner.files.disk import place_error
from captioner.files.hidden import workplace


@contextmanager
def atomic_edit(path: str | Path, seen: os.stat_result, *, keep_times: bool, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path; on success its file replaces ``path``, which exists and has not changed since ``seen``.

    The new file has the owner, the permissions and, where the system shows them, the extended attributes of the old
    one. On an exception, ``path`` stays as it was and the temporary file is removed. After a power cut, either the old
    or the new file is there, complete: the folder is not flushed, which would take as long as the file.

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
    with workplace(path, size) as temporary:
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
    # An administrator may write to read-only files, but their owner has protected them.
    if not status.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise FileError(f"{path}: is read-only; change its permissions, or leave it out")
    if status.st_nlink > 1:
        raise FileError(
            f"{path}: has {status.st_nlink} names (hard links), of which only one would change; make a copy of it first"
        )


def same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether two statuses are of the same content, by device, inode, size and time of the last change."""
    fields = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    return all(getattr(one, field) == getattr(other, field) for field in fields)


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
