"""Errors of the disk: full, faulty, read-only, or out of inodes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from captioner.errors import CaptionerError, FileError

_PROBLEMS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "it is larger than files may be there (see ulimit -f)",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk reports a fault",
}


def disk_error(path: str | Path, code: int, *, needed: int = 0) -> FileError:
    """Return the error of a file that cannot be written for lack of space or a fault of the disk.

    Args:
        path: the file or folder.
        code: of the system's error, one that :func:`writing` handles.
        needed: known lower bound of the bytes that are needed.
    """
    advice = "free some space, or give another place"
    if code in (errno.EROFS, errno.EIO):
        return FileError(f"{path}: cannot be written, {_PROBLEMS[code]}; give another place")
    with suppress(OSError):
        if code == errno.ENOSPC and _has_no_inodes(Path(path).absolute().parent):
            return FileError(f"{path}: cannot be written, the disk has no room for more files (inodes); delete some")
        free = free_bytes(Path(path).absolute().parent)
        # A full disk has less than was needed, however small that was.
        least = max(needed, free) if code == errno.ENOSPC else needed
        room = f"{_readable(least)} or more are needed and {_readable(free)} are free" if least else "nothing is free"
        return FileError(f"{path}: cannot be written, {_PROBLEMS[code]}: {room}; {advice}")
    return FileError(f"{path}: cannot be written, {_PROBLEMS[code]}; {advice}")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn errors of a full or faulty disk, while ``path`` is written, into a :class:`FileError`.

    Raises:
        FileError: there was such an error.
    """
    try:
        yield
    except Exception as error:
        found = find_disk_error(error)
        if found is None:
            raise
        raise disk_error(found[1] or path, found[0], needed=bytes_in(Path(path))) from error


def find_disk_error(error: Exception, place: Path | None = None) -> tuple[int, str | None] | None:
    """Return the code of the disk's error behind an exception, and the file if it is not in ``place``.

    Libraries wrap the system's error in their own, or hide it: numpy's has no code. In that case, try to write to
    ``place``.
    """
    if isinstance(error, FileError) and (place is None or str(place) not in str(error)):
        return None  # it names its own file
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, OSError) and link.errno in _PROBLEMS:
            name = os.fsdecode(link.filename) if isinstance(link.filename, str | bytes) else None
            return link.errno, None if place is not None and name is not None and str(place) in name else name
    for link in chain:
        for code in _PROBLEMS:
            if not isinstance(link, CaptionerError) and os.strerror(code) in str(link):
                return code, None
    if place is not None and not all(isinstance(link, CaptionerError) for link in chain):
        try:
            for file in [*place.rglob("*"), place / "probe"]:
                if not file.is_dir():
                    with open(file, "ab") as opened:
                        opened.write(bytes(1 << 16))
        except OSError as reason:
            if reason.errno in _PROBLEMS:
                return reason.errno, None
    return None


def bytes_in(path: Path) -> int:
    """Return the bytes of a file, or of the files in a folder; 0 if there is none.

    Files and folders that another process removes meanwhile do not count.
    """
    total = 0
    inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    for file in chain([path], inside):
        with suppress(OSError):
            status = file.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _readable(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _has_no_inodes(folder: Path) -> bool:
    if not hasattr(os, "statvfs"):
        return False
    status = os.statvfs(folder)
    return status.f_files > 0 and status.f_favail == 0


def free_bytes(folder: str | Path) -> int:
    """Return the free bytes of a folder's disk; the folder need not exist yet."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def check_kind(path: Path) -> None:
    """Check that ``path`` is not a device or a pipe, which an administrator could replace.

    Raises:
        FileError: it is.
    """
    with suppress(OSError, ValueError):
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise FileError(f"{path}: is a device or a pipe, which cannot be replaced; give a file")


def check_folder(path: Path) -> Path:
    """Return the innermost folder around ``path`` that exists.

    Raises:
        FileError: it is a file, or not writable, or a name is too long.
    """
    try:
        inside = path.absolute().parent  # of the root, itself
        there = next(parent for parent in (inside, *inside.parents) if parent.exists())
        for name in (path, *(there / part for part in path.absolute().relative_to(there).parts)):
            with suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(name)
    except (OSError, ValueError) as error:
        raise place_error(path, error) from error
    if not there.is_dir():
        raise FileError(f"{path}: {there.name} is a file, not a folder; give another place")
    if not os.access(there, os.W_OK | os.X_OK):
        if hasattr(os, "statvfs") and os.statvfs(there).f_flag & os.ST_RDONLY:
            raise disk_error(path, errno.EROFS)
        raise FileError(
            f"{path}: the folder {there} must not be written to; give another place, or change its permissions"
        )
    return there


def place_error(path: Path, error: OSError | ValueError) -> FileError:
    """Return the error of a file or folder that cannot be made at ``path``."""
    if isinstance(error, OSError) and error.errno in _PROBLEMS:
        return disk_error(path, error.errno)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        longest = max(len(os.fsencode(part)) for part in path.parts)
        return FileError(f"{path}: its name is too long for the file system ({longest} bytes); give a shorter one")
    reason = error.strerror if isinstance(error, OSError) else error
    return FileError(f"{str(path)!r}: cannot be written there ({reason}); give another place")
