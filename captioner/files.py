"""Writes files so that no partial one is visible (temporary file, fsync, rename); reads small ones within bounds."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from captioner.errors import CaptionerError, FileError, first_line

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked and so nothing is removed that another process left
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

MOST_TEXT = 64 << 20
"""Bytes of a config, an index or a vocabulary, beyond which it is refused unread."""


@contextmanager
def atomic_path(path: str | Path, *, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path; on success flush its file to disk and rename it to ``path``.

    On an exception ``path`` stays as it was and the temporary file is removed. A missing parent folder is created.

    Args:
        path: the file to write.
        size: bytes that it will have, if that is known; named in the error when the disk is full.

    Raises:
        FileError: nothing can be written there, or the disk is full or fails meanwhile.
    """
    path = Path(path)
    _check_kind(path)
    with _workplace(path, size) as temporary:
        # Created by open() and not by tempfile, so that it has the usual permissions of a new file.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        with open(temporary, "rb+") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != mode:  # a library put a file of its own there
                temporary.chmod(mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes the place of ``folder``, which may exist.

    On an exception everything stays as it was. A missing parent folder is created.

    Raises:
        FileError: nothing can be written there, or the disk is full or fails meanwhile.
    """
    folder = Path(folder)
    with _workplace(folder) as temporary:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            old = temporary.parents[1] / _OLD
            old.mkdir()
            folder.rename(old / folder.name)
        temporary.rename(folder)  # if it fails, or a kill comes between, the old folder is put back: see _remove()
        _sync_folder(folder.parent)


_WORKPLACE = re.compile(r"\.captioner-[0-9a-f]{16}\.tmp")
_LOCK, _NEW, _OLD = "lock", "new", "old"
_cleared: set[Path] = set()  # folders without what earlier processes left


@contextmanager
def _workplace(path: Path, size: int = 0) -> Iterator[Path]:
    """Yield a free path in a hidden folder beside ``path``, with the same name.

    The hidden folder is removed at the end. This process locks a file in it, so what a killed process left is removed
    by the next one that writes to the same folder, and what a living one needs is not.

    Raises:
        FileError: see :func:`atomic_path`.
    """
    _check_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        place, lock = _make_place(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield place / _NEW / path.name
    except Exception as error:
        found = _disk_error(error, place)
        written = bytes_in(place)
        _remove(place)
        if found is None:
            raise
        code, name = found
        raise disk_error(name or path, code, needed=max(written, size, bytes_in(path))) from error
    finally:
        os.close(lock)
        _remove(place)


def _make_place(folder: Path) -> tuple[Path, int]:
    """Make a hidden folder and lock it; return it and the open file of the lock."""
    while True:
        place = folder / f".captioner-{secrets.token_hex(8)}.tmp"
        place.mkdir(0o700)
        try:
            lock = _lock(place / _LOCK)
            (place / _NEW).mkdir()
        except FileNotFoundError:  # another process took it for one that was left
            continue
        except BaseException:
            _remove(place)
            raise
        if lock is not None:
            return place, lock


def _lock(path: Path, *, surely: bool = False) -> int | None:
    """Lock a file, which is created if it is missing, until it is closed or the process ends in any way.

    Args:
        path: the file.
        surely: raise an error where the file system has no locks; by default the file is then only opened.

    Returns:
        The open file, or ``None`` if another has the lock.

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
        except FileNotFoundError:  # whoever had the lock has removed the file
            pass
        except OSError as error:
            if not surely and error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                return handle
            os.close(handle)
            raise
        os.close(handle)


@contextmanager
def only_one(folder: str | Path, *, error: type[CaptionerError], work: str) -> Iterator[None]:
    """Be the only process that works on a folder, which is created if it is missing.

    Args:
        folder: the folder.
        error: the class of errors to raise.
        work: what is done there, for the error: "trains", for example.

    Raises:
        CaptionerError: of class ``error``: another process does so already.
        FileError: nothing can be written there.
    """
    folder = Path(folder)
    path = folder / ".captioner.lock"
    _check_folder(path)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as reason:
        raise _cannot_write(folder, reason) from reason
    if lock is None:
        raise error(f"{folder}: another process {work} there; wait until it has ended, or give another folder")
    try:
        yield
    finally:
        with suppress(OSError):  # removed while it is locked, so that nobody can lock a file that is gone
            path.unlink()
        os.close(lock)
        with suppress(OSError):  # it is not empty
            for each in made:
                each.rmdir()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty folder where the system has temporary files; it is removed as :func:`atomic_path` does.

    Raises:
        FileError: nothing can be written there, or the disk is full or fails meanwhile.
    """
    with _workplace(Path(tempfile.gettempdir()) / "captioner") as place:
        place.mkdir()
        yield place


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder, once in a process."""
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
            with suppress(OSError):  # there are no locks
                lock = _lock(Path(entry.path) / _LOCK, surely=True)
                if lock is not None:
                    _remove(Path(entry.path))
                    os.close(lock)


def _remove(place: Path) -> None:
    """Remove a hidden folder; a folder whose replacement it was interrupted in gets its place back first."""
    with suppress(OSError):
        for old in (place / _OLD).iterdir():
            target = place.parent / old.name
            if not target.exists():
                old.rename(target)
    shutil.rmtree(place, ignore_errors=True)


_PROBLEMS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "it is larger than files may be there (see ulimit -f)",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk reports a fault",
}


def disk_error(path: str | Path, code: int, *, needed: int = 0) -> FileError:
    """Return the error that a file cannot be written for want of space or a fault of the disk.

    Args:
        path: the file or folder.
        code: of the system's error, one that :func:`writing` handles.
        needed: bytes of which it is known that they are needed.
    """
    cure = "free some space, or give another place"
    if code in (errno.EROFS, errno.EIO):
        return FileError(f"{path}: cannot be written, {_PROBLEMS[code]}; give another place")
    with suppress(OSError):
        if code == errno.ENOSPC and _has_no_inodes(Path(path).absolute().parent):
            return FileError(f"{path}: cannot be written, the disk has no room for more files (inodes); delete some")
        free = free_bytes(Path(path).absolute().parent)
        # A full disk has less than what was wanted, however little that was.
        least = max(needed, free) if code == errno.ENOSPC else needed
        room = f"{_readable(least)} or more are needed and {_readable(free)} are free" if least else "nothing is free"
        return FileError(f"{path}: cannot be written, {_PROBLEMS[code]}: {room}; {cure}")
    return FileError(f"{path}: cannot be written, {_PROBLEMS[code]}; {cure}")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn errors of the disk, which is full or fails while ``path`` is written, into a :class:`FileError`.

    Raises:
        FileError: there was such an error.
    """
    try:
        yield
    except Exception as error:
        found = _disk_error(error)
        if found is None:
            raise
        raise disk_error(found[1] or path, found[0], needed=bytes_in(Path(path))) from error


def _disk_error(error: Exception, place: Path | None = None) -> tuple[int, str | None] | None:
    """Return the code of the disk's error behind an exception, if there is one, and the file if it is not in ``place``.

    Libraries wrap it in errors of their own, or hide it: numpy's has no code. Then writing to ``place`` is tried.
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
            for file in [*place.rglob("*"), place / _NEW / "probe"]:
                if not file.is_dir():
                    with open(file, "ab") as opened:
                        opened.write(bytes(1 << 16))
        except OSError as reason:
            if reason.errno in _PROBLEMS:
                return reason.errno, None
    return None


def bytes_in(path: Path) -> int:
    """Return the bytes of a file, or of the files in a folder; 0 if there is none."""
    total = 0
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
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
    """Return the free bytes of the disk that a folder is on, which need not exist yet."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def check_place(path: str | Path) -> None:
    """Check that a file or folder can be made at ``path``, as far as can be seen without making it.

    Raises:
        FileError: it would be in a file, in a folder that must not be written to, or have a name that the file system
            refuses.
    """
    path = Path(path)
    _check_kind(path)
    remove_leftovers(_check_folder(path))


def _check_kind(path: Path) -> None:
    """Refuse to replace what is neither a file nor a folder, which an administrator could do.

    Raises:
        FileError: it is a device or a pipe.
    """
    with suppress(OSError, ValueError):
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise FileError(f"{path}: is a device or a pipe, which cannot be replaced; give a file")


def _check_folder(path: Path) -> Path:
    """Return the innermost folder around ``path`` that exists.

    Raises:
        FileError: it is a file, or must not be written to, or a name is too long.
    """
    try:
        there = next(parent for parent in path.absolute().parents if parent.exists())
        for name in (path, *(there / part for part in path.absolute().relative_to(there).parts)):
            with suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(name)
    except (OSError, ValueError) as error:
        raise _cannot_write(path, error) from error
    if not there.is_dir():
        raise FileError(f"{path}: {there.name} is a file, not a folder; give another place")
    if not os.access(there, os.W_OK | os.X_OK):
        if hasattr(os, "statvfs") and os.statvfs(there).f_flag & os.ST_RDONLY:
            raise disk_error(path, errno.EROFS)
        raise FileError(
            f"{path}: the folder {there} must not be written to; give another place, or change its permissions"
        )
    return there


def _cannot_write(path: Path, error: OSError | ValueError) -> FileError:
    if isinstance(error, OSError) and error.errno in _PROBLEMS:
        return disk_error(path, error.errno)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        longest = max(len(os.fsencode(part)) for part in path.parts)
        return FileError(f"{path}: its name is too long for the file system ({longest} bytes); give a shorter one")
    reason = error.strerror if isinstance(error, OSError) else error
    return FileError(f"{str(path)!r}: cannot be written there ({reason}); give another place")


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON, completely or not at all."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def sha256(file: IO[bytes]) -> str:
    """Return the SHA-256 of the rest of an open file in hexadecimal; it is read in blocks."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


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
