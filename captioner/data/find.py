"""Finding image files by names, folders and glob patterns."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from captioner.data.raw import RAW_EXTENSIONS, can_read_raw

IMAGE_EXTENSIONS: frozenset[str] = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "ico", "cur"),
        *("ppm", "pgm", "pbm", "pnm", "pfm", "avif", "avifs", "tga", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
        *("heic", "heics", "heif", "heifs", "hif", "jxl"),
    )
)
"""Extensions of image files in a folder, in lower case."""

PHOTO_EXTENSIONS = IMAGE_EXTENSIONS | RAW_EXTENSIONS
"""These and those of raw photos, whether they can be read or not."""

PREVIEWS = re.compile(
    r"@eaDir|#recycle|\$RECYCLE\.BIN|Thumbnails?|.*\.(lrdata|lrcat-data|photoslibrary|aplibrary)", re.I
)
"""Folders of thumbnails and previews, of Synology, Lightroom and others, and of deleted files."""


def is_hidden(name: str) -> bool:
    """Return whether a file or one of its folders is hidden, like the ``._1.jpg`` that macOS puts into archives."""
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def find_images(
    paths: Iterable[str | Path],
    *,
    recursive: bool = False,
    on_empty: Callable[[str], None] | None = None,
    on_unreadable: Callable[[str], None] | None = None,
    on_other: Callable[[str], None] | None = None,
    archives: tuple[str, ...] = (),
) -> Iterator[Path]:
    """Yield image files lazily, sorted by name within each of ``paths``.

    A file is yielded with any extension. A folder yields its files with one of ``IMAGE_EXTENSIONS``, and raw photos if
    they can be read; with ``recursive`` also those of its subfolders, each visited once even if links form a circle.
    Hidden files and folders are left out, and so are the previews that photo software keeps in special folders
    (:data:`PREVIEWS`). A name that does not exist is a glob pattern if it contains ``*``, ``?`` or ``[``, with ``**``
    for any number of folders. It is expanded as by the shell, except that a pattern ending in a bare ``*`` or ``**``
    yields images only.
    A name or pattern without a match is yielded unchanged, and loading reports it.

    Names are compared folder by folder: ``a/2.jpg`` comes before ``a.jpg``.

    Args:
        paths: files, folders and glob patterns.
        recursive: include subfolders.
        on_empty: called with a message for each folder that holds no images or cannot be opened.
        on_unreadable: called instead of it for each folder that cannot be opened.
        on_other: called with the name of each visible file in a folder that is not yielded.
        archives: endings, in lower case, of other files to yield.
    """
    report = on_empty or (lambda message: None)

    def counts(name: str) -> bool:
        ending = os.path.splitext(name)[1].lower()
        return (
            ending in IMAGE_EXTENSIONS
            or (ending in RAW_EXTENSIONS and can_read_raw())
            or name.lower().endswith(archives)
        )

    for path in map(Path, paths):
        for hit in [path] if os.path.lexists(path) else _glob(path, counts):
            if not os.path.isdir(hit):
                yield hit
                continue
            empty = True

            def unreadable(message: str) -> None:
                nonlocal empty
                empty = False
                (on_unreadable or report)(message)

            for image in _walk(hit, recursive, counts, unreadable, on_other or (lambda name: None)):
                empty = False
                yield image
            if empty:
                hint = "" if recursive else " (use --recursive to look in subfolders)"
                report(f"{hit}{os.sep}: no images in this folder{hint}")


def _walk(
    top: Path,
    recursive: bool,
    counts: Callable[[str], bool],
    report: Callable[[str], None],
    other: Callable[[str], None],
) -> Iterator[Path]:
    seen = {os.path.realpath(top)}
    folders = [(top, iter(_entries(top, report)))]  # not a recursive function, since folders may be nested deeply
    while folders:
        folder, entries = folders[-1]
        for name, is_folder in entries:
            if not is_folder:
                if counts(name):
                    yield folder / name
                else:
                    other(name)
            elif recursive and (real := os.path.realpath(folder / name)) not in seen:
                seen.add(real)
                folders.append((folder / name, iter(_entries(folder / name, report))))
                break
        else:
            folders.pop()


def _entries(folder: Path, report: Callable[[str], None]) -> list[tuple[str, bool]]:
    """List the visible names in a folder, sorted, each with whether it is a folder."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
            return sorted(
                (entry.name, folder)
                for entry, folder in zip(shown, map(_is_folder, shown), strict=True)
                if not (folder and PREVIEWS.fullmatch(entry.name))
            )
    except OSError as error:
        report(f"{folder}{os.sep}: cannot look into this folder ({error.strerror}); check its permissions")
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that must not be entered
        return False


def _glob(path: Path, counts: Callable[[str], bool]) -> list[Path]:
    """List the files and folders that match a pattern, sorted; ``[path]`` if there are none."""
    parts = list(path.parts)
    base = Path()
    while parts and os.path.lexists(base / parts[0]):  # an existing name may contain the characters of patterns
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
            if (not reaches_down) if os.path.isdir(hit) else (counts(hit.name) or not any_name):
                hits.append(hit)
    except (ValueError, OSError):  # not a valid pattern, such as "a**b"
        pass
    return sorted(hits, key=lambda hit: hit.parts) or [path]
