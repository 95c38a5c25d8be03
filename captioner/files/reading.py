"""Reading small files within limits of size."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zlib
from pathlib import Path
from typing import IO, TypeVar

from captioner.errors import CaptionerError, first_line

T = TypeVar("T")

MAX_TEXT = 64 << 20
"""Largest size in bytes of a config, an index or a vocabulary."""

_ENDS = 1 << 12  # bytes at the beginning and at the end of a file


def sha256(file: IO[bytes]) -> str:
    """Return the SHA-256 of the rest of an open file in hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 18):
        digest.update(block)
    return digest.hexdigest()


def quick_checksum(path: str | Path) -> int | None:
    """Return a checksum of a file's size, beginning and end, to find changed files; ``None`` if it cannot be read."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return None
        with open(path, "rb") as file:
            value = zlib.crc32(file.read(_ENDS), zlib.crc32(b"%d " % status.st_size))
            file.seek(max(file.tell(), status.st_size - _ENDS))
            return zlib.crc32(file.read(_ENDS), value)
    except (OSError, ValueError):
        return None


def read_text(
    path: str | Path,
    *,
    error: type[CaptionerError],
    advice: str = "copy it again",
    max_bytes: int | None = MAX_TEXT,
    encoding: str = "utf-8",
) -> str:
    """Read a text file of a limited size.

    Args:
        path: a regular file.
        error: the class of errors to raise.
        advice: advice for a damaged file, for the end of the message.
        max_bytes: largest size in bytes; ``None`` sets no limit.
        encoding: of the text.

    Raises:
        CaptionerError: of class ``error``: the file is missing, not a regular file, too large, or not text.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
            raise error(f"{path}: is not a regular file; {advice}")
        if max_bytes is not None and status.st_size > max_bytes:
            raise error(f"{path}: has {status.st_size:,} bytes, more than the {max_bytes:,} that are read; {advice}")
        return Path(path).read_bytes().decode(encoding)
    except FileNotFoundError:
        raise error(f"{path}: there is no such file; {advice}") from None
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}); {advice}") from None
    except UnicodeDecodeError as reason:
        raise error(f"{path}: is not {encoding} text ({reason.reason} at byte {reason.start:,}); {advice}") from None
    except ValueError as reason:  # a zero byte in the name
        raise error(f"{path!r}: cannot be a file's name ({reason}); {advice}") from None


def parse_json(text: str, kind: type[T], *, where: str | Path, error: type[CaptionerError], advice: str) -> T:
    """Parse JSON and check the type of its outermost value.

    Args:
        text: the JSON.
        kind: ``dict`` or ``list``.
        where: the source, for the error, for example a path.
        error: the class of errors to raise.
        advice: advice, for the end of the message.

    Raises:
        CaptionerError: of class ``error``: it is not JSON, nested too deeply, or another type.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise error(f"{where}: its JSON is nested too deeply; {advice}") from None
    except ValueError as reason:  # also of an integer with thousands of digits
        raise error(f"{where}: is not JSON ({first_line(reason)}); {advice}") from None
    if not isinstance(value, kind):
        names: dict[type, str] = {dict: "an object", list: "a list", type(None): "null"}
        found, wanted = (names.get(each, each.__name__) for each in (type(value), kind))
        raise error(f"{where}: its JSON is {found}, not {wanted}; {advice}")
    return value


def read_json(
    path: str | Path,
    kind: type[T],
    *,
    error: type[CaptionerError],
    advice: str = "copy it again",
    max_bytes: int | None = MAX_TEXT,
    encoding: str = "utf-8",
) -> T:
    """Read a JSON file of a limited size and check the type of its outermost value.

    See :func:`read_text` and :func:`parse_json`. The caller checks the fields inside.

    Raises:
        CaptionerError: of class ``error``: the file cannot be read, or is not such JSON.
    """
    return parse_json(
        read_text(path, error=error, advice=advice, max_bytes=max_bytes, encoding=encoding),
        kind,
        where=path,
        error=error,
        advice=advice,
    )


def format_of(path: str | Path) -> str:
    """Return the format that a file's name ends in; it may be unknown or empty."""
    kind = Path(path).suffix.lower().removeprefix(".")
    return "html" if kind == "htm" else kind
