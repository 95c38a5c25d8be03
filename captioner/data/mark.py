"""The marks in this program's figures, which distinguish them from other files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from captioner.errors import FileError

PROGRAM = "Captioner"
"""Written to the field for the program's name in the format of a figure."""

_BYTES_READ = 4096  # bytes at the start and at the end of a file, one of which holds the mark
_MARKS = (
    f"tEXtSoftware\0{PROGRAM}".encode(),  # PNG
    b"!\xfe" + bytes([len(PROGRAM)]) + PROGRAM.encode() + b"\0",  # GIF: a comment
    f"<dc:title>{PROGRAM}</dc:title>".encode(),  # SVG
    f"/Creator ({PROGRAM})".encode(),  # PDF
    f'<meta name="generator" content="{PROGRAM}">'.encode(),  # HTML
)
_JSON_STARTS = (  # of captions and translations; JSON has no such field
    b'{"format": 1, "image": ',
    b'[\n  {\n    "language": ',
)


def is_figure(path: str | Path) -> bool:
    """Return whether a file is a figure of this program, by a few kilobytes of it (30 microseconds)."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            return False
        with open(path, "rb") as file:
            start = file.read(_BYTES_READ)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _BYTES_READ))
            end = file.read(_BYTES_READ)
    except (OSError, ValueError):
        return False
    return start.startswith(_JSON_STARTS) or any(mark in part for part in (start, end) for mark in _MARKS)


def is_drawn_image(path: str | Path) -> bool:
    """Return whether an image file is a figure of this program; opens PNG and GIF files only."""
    return os.path.splitext(path)[1].lower() in (".png", ".gif") and is_figure(path)


def check_replaceable(path: str | Path) -> None:
    """Check that a figure may be written to ``path``: it is free, an empty file, or a figure of this program.

    Raises:
        FileError: there is something else.
    """
    if not os.path.lexists(path) or is_figure(path):
        return
    if os.path.isfile(path) and os.path.getsize(path) == 0:  # made by mktemp, for example
        return
    raise FileError(
        f"{path}: exists and is not a figure that this program drew, so it is not replaced; move it, or give "
        "another --output"
    )
