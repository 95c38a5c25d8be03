"""Finds the picture files that names, folders and glob patterns stand for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

IMAGE_EXTENSIONS: frozenset[str] = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "ico", "cur"),
        *("ppm", "pgm", "pbm", "pnm", "pfm", "avif", "avifs", "tga", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
        *("heic", "heics", "heif", "heifs", "hif"),
    )
)
"""Extensions of the files in a folder that count as pictures, in lower case."""


def find_images(
    paths: Iterable[str | Path], *, recursive: bool = False, on_empty: Callable[[str], None] | None = None
) -> Iterator[Path]:
    """Yield the picture files that ``paths`` stand for, lazily, sorted by name within each of ``paths``.

    A file stands for itself, whatever its extension. A folder stands for the files in it that have one of
    ``IMAGE_EXTENSIONS``; with ``recursive`` also for those in its subfolders, where each folder is visited once even if
    links form a circle. Hidden files and folders are left out. A name that does not exist is a glob pattern if it
    contains ``*``, ``?`` or ``[``, with ``**`` for any number of folders; it stands for what the shell would put in its
    place, except that one ending in a bare ``*`` or ``**`` stands for pictures only. What matches nothing is yielded
    unchanged, so that loading reports it.

    Args:
        paths: files, folders and glob patterns.
        recursive: look into subfolders too.
        on_empty: called with a message for each folder that holds no pictures or cannot be opened.
    """
    report = on_empty or (lambda message: None)
    for path in map(Path, paths):
        for hit in [path] if os.path.lexists(path) else _glob(path):
            if not os.path.isdir(hit):
                yield hit
                continue
            empty = True
            for picture in _walk(hit, recursive, set(), report):
                empty = False
                yield picture
            if empty:
                hint = "" if recursive else " (use --recursive to look in subfolders)"
                report(f"{hit}{os.sep}: no pictures in this folder{hint}")


def _walk(folder: Path, recursive: bool, seen: set[str], report: Callable[[str], None]) -> Iterator[Path]:
    seen.add(os.path.realpath(folder))
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        report(f"{folder}{os.sep}: cannot look into this folder ({error.strerror}); check its permissions")
        return
    for path in (folder / name for name in names if not name.startswith(".")):
        if os.path.isdir(path):
            if recursive and os.path.realpath(path) not in seen:
                yield from _walk(path, recursive, seen, report)
        elif path.suffix.lower() in IMAGE_EXTENSIONS:
            yield path


def _glob(path: Path) -> list[Path]:
    """List the files and folders that match a pattern, sorted; ``[path]`` if there are none."""
    parts = list(path.parts)
    base = Path()
    while parts and os.path.lexists(base / parts[0]):  # a name that exists is no pattern, whatever its characters
        base /= parts.pop(0)
    if not any(character in part for part in parts for character in "*?["):
        return [path]
    reaches_down = "**" in parts  # then the files in matching folders are hits themselves
    any_name = parts[-1] in ("*", "**")
    show_hidden = any(part.startswith(".") for part in parts)
    hits = []
    try:
        for hit in base.glob(os.path.join(*parts, "*") if parts[-1] == "**" else os.path.join(*parts)):
            if not show_hidden and any(part.startswith(".") for part in hit.relative_to(base).parts):
                continue
            is_picture = hit.suffix.lower() in IMAGE_EXTENSIONS
            if (not reaches_down) if os.path.isdir(hit) else (is_picture or not any_name):
                hits.append(hit)
    except (ValueError, OSError):  # not a valid pattern, such as "a**b"
        pass
    return sorted(hits) or [path]
