"""Zip archives of other people, unpacked safely."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from captioner.errors import DownloadError

BLOCK = 1 << 18
"""Bytes that are read at once."""


def choose_members(
    file: zipfile.ZipFile, places: Iterable[tuple[str, str]], members: Sequence[str] = (), *, limit: int
) -> list[tuple[zipfile.ZipInfo, str]]:
    """The members of an archive to unpack, each with its path below the folder of all data.

    Args:
        file: the archive.
        places: (pattern, folder), see :class:`~captioner.data.download.catalog.Archive`.
        members: patterns of names to restrict them to.
        limit: bytes that all members together may have, by their headers; no member is ever read beyond its header's
            size.

    Raises:
        DownloadError: a name leads out of the folder, is there twice or cannot be a file's name everywhere; a member is
            a link, a device or encrypted; or they are larger than ``limit``.
    """
    chosen: list[tuple[zipfile.ZipInfo, str]] = []
    seen: set[str] = set()
    total = 0
    for info in file.infolist():
        name = info.orig_filename  # as written in the archive, before zipfile tidied it up
        parts = name.removesuffix("/").split("/")
        wrong = ""
        if any(part in ("", ".", "..") for part in parts) or any(character in name for character in "\\:\0"):
            wrong = "has a name that leads out of its folder or is no file's name"
        elif stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            wrong = "is a link or a device"
        elif info.flag_bits & 1:
            wrong = "is encrypted"
        elif name.casefold() in seen:
            wrong = "is there twice"
        total += info.file_size
        if not wrong and total > limit:
            wrong = f"brings it to {total:,} bytes, and no more than {limit:,} are expected"
        if wrong:
            raise DownloadError(
                f"{file.filename}: nothing was unpacked, since its member {name!r} {wrong}; do not trust this archive, delete it"
            )
        seen.add(name.casefold())
        folder = next((folder for pattern, folder in places if fnmatchcase(name, pattern)), None)
        if (
            folder is not None
            and not info.is_dir()
            and (not members or any(fnmatchcase(name, pattern) for pattern in members))
        ):
            chosen.append((info, f"{folder}/{name}"))
    return chosen


def write_member(
    file: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, go_on: Callable[[], None] = lambda: None
) -> None:
    """Unpack one member to ``path``, whole or not at all; ``go_on`` is called now and then, and may raise to stop.

    Raises:
        zipfile.BadZipFile: its bytes are not those that its checksum is of.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(
        path.name + ".part"
    )  # always the same name, so that a killed run leaves no more than one, and only until the next
    with file.open(info) as source, open(part, "wb") as sink:
        while block := source.read(BLOCK):  # at the member's end this compares the CRC
            sink.write(block)
            go_on()
    os.replace(part, path)


def is_member(path: Path, info: zipfile.ZipInfo) -> bool:
    """Tell whether a file is the member; by its CRC, as a power cut may leave files of the right size without their bytes."""
    if size_of(path) != info.file_size or not path.is_file():
        return False
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc == info.CRC


def size_of(path: Path) -> int:
    """A file's size in bytes; 0 if it is not there."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def check_room(folder: Path, need: int) -> None:
    """Refuse to begin what the disk has no room for: ``need`` bytes below ``folder``, which may not exist yet.

    Raises:
        DownloadError: there is less.
    """
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if need > free:
        raise DownloadError(
            f"{folder}: {need / 1e9:,.2f} GB are needed and {free / 1e9:,.2f} GB are free; free some space, or choose a folder on another disk"
        )
