"""Reading the pictures of a part, one after the other, from local files or anything that fsspec opens."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.bulk.limits import MOST_BYTES, BadPart, too_large
from captioner.bulk.parts import Part
from captioner.bulk.tables import NoImages, column_of, images_in_group, open_table, size_of
from captioner.bulk.tars import images_in_tar
from captioner.errors import BulkError, first_line


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a collection.

    Attributes:
        name: what it is called in the output.
        data: its file or its bytes; ``None`` if it cannot be read.
        error: why it cannot.
    """

    name: str
    data: Path | bytes | None
    error: str = ""

    @property
    def size(self) -> int:
        """Bytes that it takes in memory."""
        return len(self.data) if isinstance(self.data, bytes) else 0


def pictures(part: Part, *, column: str | None = None) -> Iterator[Picture]:
    """Yield the pictures of a part.

    Args:
        part: what to read.
        column: of a Parquet file that could not be read when the parts were cut, the one with the pictures.

    Raises:
        BadPart: it cannot be read, or not to its end; those before have been yielded.
        BulkError: a program that is needed is not installed.
    """
    if part.kind == "pictures":
        found: Iterator[tuple[str, Path | bytes | str]] = _listed(part)
    elif part.kind == "tar":
        members = images_in_tar(functools.partial(opened, part.address))
        found = ((f"{part.address}:{name}", data) for name, data in members)
    else:
        found = ((f"{part.address}:{row}", data) for row, data in _in_parquet(part, column))
    for name, data in found:
        yield Picture(name, None, data) if isinstance(data, str) else Picture(name, data)


def _listed(part: Part) -> Iterator[tuple[str, Path | bytes | str]]:
    with opened(part.address) as listed:
        listed.seek(part.start)
        for _ in range(part.count):
            try:
                name = str(json.loads(listed.readline()))
            except (ValueError, RecursionError) as error:
                raise BadPart(f"the list of pictures is damaged ({first_line(error)})") from None
            yield name, _remote(name) if "://" in name else Path(name)


def _remote(name: str) -> bytes | str:
    """Return the bytes of a file that fsspec opens, or why they are not read."""
    try:
        with opened(name) as file:
            data: bytes = b"" if too_large(getattr(file, "size", 0) or 0) else file.read(MOST_BYTES + 1)
            return too_large(max(getattr(file, "size", 0) or 0, len(data))) or data
    except BadPart as error:
        return str(error)
    except Exception as error:  # each kind of storage has its own
        return f"cannot be read: {first_line(error)}"


def _in_parquet(part: Part, column: str | None) -> Iterator[tuple[int, bytes | str]]:
    with opened(part.address) as file:
        table = open_table(file)
        path = part.column
        if not path:
            try:
                path = column_of(table.schema_arrow, column)
            except BulkError as error:
                raise BadPart(str(error)) from None
            except NoImages:
                return
        last = part.start + part.count if part.count else table.num_row_groups
        for group in range(part.start, last):
            yield from images_in_group(table, group, path, size_of(file))


@contextmanager
def opened(address: str) -> Iterator[Any]:
    """Open a local file, or one that fsspec opens, for reading.

    Raises:
        BadPart: it cannot be opened.
    """
    if "://" not in address:
        try:
            if not os.path.isfile(address) and os.path.exists(address):  # opening a pipe would wait for a writer
                raise BadPart("cannot be opened: not a regular file")
            file = open(address, "rb")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise BadPart(f"cannot be opened: {error.strerror}") from None
        with file:
            yield file
        return
    import fsspec

    try:
        remote = fsspec.open(address, "rb").open()
    except Exception as error:  # each kind of storage has its own
        raise BadPart(f"cannot be opened: {first_line(error)}") from None
    with remote:
        yield remote
