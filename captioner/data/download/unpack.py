"""Safe unpacking of zip archives from the network."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from captioner.errors import DownloadError, first_line
from captioner.files import free_bytes, writing

BLOCK = 1 << 18
"""Bytes read at once."""

ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
"""Errors of :mod:`zipfile` on damaged or unsupported archives."""


def choose_members(
    file: zipfile.ZipFile, places: Iterable[tuple[str, str]], members: Sequence[str] = (), *, limit: int
) -> list[tuple[zipfile.ZipInfo, str]]:
    """Choose the members of an archive to unpack, each with its path relative to the data folder.

    Args:
        file: the archive.
        places: (pattern, folder), see :class:`~captioner.data.download.catalog.Archive`.
        members: patterns of names; if given, only these members are chosen.
        limit: bytes of all members by their headers; zipfile reads no member beyond the size in its header.

    Raises:
        DownloadError: a name leads out of the folder, occurs twice or is not valid on every system; a member is a link,
            a device or encrypted; or the members exceed ``limit``.
    """
    chosen: list[tuple[zipfile.ZipInfo, str]] = []
    seen: set[str] = set()
    total = 0
    for info in file.infolist():
        name = info.orig_filename  # as written in the archive, before zipfile tidied it up
        parts = name.removesuffix("/").split("/")
        fault = ""
        if any(part in ("", ".", "..") for part in parts) or any(character in name for character in "\\:\0"):
            fault = "has a name that leads out of its folder or is not a file's name"
        elif stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "is a link or a device"
        elif info.flag_bits & 1:
            fault = "is encrypted"
        elif name.casefold() in seen:
            fault = "occurs twice"
        total += info.file_size
        if not fault and total > limit:
            fault = f"brings it to {total:,} bytes, but no more than {limit:,} are expected"
        if fault:
            raise DownloadError(
                f"{file.filename}: nothing was unpacked, since its member {name!r} {fault}; do not trust this archive, "
                "delete it"
            )
        seen.add(name.casefold())
        folder = next((folder for pattern, folder in places if fnmatchcase(name, pattern)), None)
        wanted = not members or any(fnmatchcase(name, pattern) for pattern in members)
        if wanted and folder is not None and not info.is_dir():
            chosen.append((info, f"{folder}/{name}"))
    return chosen


def write_member(
    file: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, on_block: Callable[[], None] = lambda: None
) -> None:
    """Unpack one member to ``path``, completely or not at all; ``on_block`` is called after each block.

    Raises:
        zipfile.BadZipFile: the bytes do not match their checksum.
        FileError: the disk is full or fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: a killed run leaves one such file at most, which the next run overwrites.
    part = path.with_name(path.name + ".part")
    with writing(path), file.open(info) as source, open(part, "wb") as sink:
        while block := source.read(BLOCK):  # at the member's end this compares the CRC
            sink.write(block)
            on_block()
    os.replace(part, path)


def find_damage(path: Path, *, limit: int) -> str:
    """Return the fault of a zip archive, by its structure and the CRCs of its members; empty if there is none.

    ``limit`` and errors are those of :func:`choose_members`.
    """
    try:
        with zipfile.ZipFile(path) as file:
            choose_members(file, (), limit=limit)
            damaged = file.testzip()
    except ZIP_ERRORS as error:
        return first_line(error)
    return f"its member {damaged!r} is damaged" if damaged else ""


def is_member(path: Path, info: zipfile.ZipInfo) -> bool:
    """Return whether a file is the unpacked member, by its CRC: a power cut may leave the size without the bytes."""
    if size_of(path) != info.file_size or not path.is_file():
        return False
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc == info.CRC


def size_of(path: Path) -> int:
    """Return a file's size in bytes; 0 if it does not exist."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def check_room(folder: Path, need: int) -> None:
    """Check that the disk has ``need`` bytes free for ``folder``, which may not exist yet.

    Raises:
        DownloadError: it has less.
    """
    free = free_bytes(folder.resolve())
    if need > free:
        raise DownloadError(
            f"{folder}: {need / 1e9:,.2f} GB are needed and {free / 1e9:,.2f} GB are free; free some space, or choose "
            "a folder on another disk"
        )
