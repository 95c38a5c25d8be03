"""The marks in the program's own figures, which tell them from photos and from files that somebody else made."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from captioner.errors import FileError

PROGRAM = "Captioner"
"""The program that made a figure, in the field that its format has for this."""

_ENDS = 4096  # bytes at the start and at the end of a file, one of which holds the mark
_MARKS = (
    f"tEXtSoftware\0{PROGRAM}".encode(),  # PNG
    b"!\xfe" + bytes([len(PROGRAM)]) + PROGRAM.encode() + b"\0",  # GIF: a comment
    f"<dc:title>{PROGRAM}</dc:title>".encode(),  # SVG
    f"/Creator ({PROGRAM})".encode(),  # PDF
    f'<meta name="generator" content="{PROGRAM}">'.encode(),  # HTML
)
_STARTS = (  # of JSON, which has no such field: captions, and translations
    b'{"format": 1, "image": ',
    b'[\n  {\n    "language": ',
)


def is_figure(path: str | Path) -> bool:
    """Return whether a file is a figure that this program drew; reads a few kilobytes (30 microseconds)."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            return False
        with open(path, "rb") as file:
            start = file.read(_ENDS)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _ENDS))
            end = file.read(_ENDS)
    except (OSError, ValueError):
        return False
    return start.startswith(_STARTS) or any(mark in part for part in (start, end) for mark in _MARKS)


def is_drawn_image(path: str | Path) -> bool:
    """Return whether an image file is such a figure; only files with an extension of theirs are opened."""
    return os.path.splitext(path)[1].lower() in (".png", ".gif") and is_figure(path)


def check_replaceable(path: str | Path) -> None:
    """Check that writing a figure to ``path`` destroys no work: nothing is there, an empty file, or such a figure.

    Raises:
        FileError: something else is there.
    """
    if not os.path.lexists(path) or is_figure(path):
        return
    if os.path.isfile(path) and os.path.getsize(path) == 0:  # made by mktemp, for example
        return
    raise FileError(
        f"{path}: exists and is not a figure that this program drew, so it is not replaced; move it, or give "
        "another --output"
    )
