"""Reads the images of a part, one after the other, from local files or any storage that fsspec opens."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from captioner.bulk.limits import MOST_BYTES, BadPart, too_large
from captioner.bulk.part import Part
from captioner.bulk.storage import opened, size_of
from captioner.bulk.tables import NoImages, column_of, images_in_group, open_table
from captioner.bulk.tars import images_in_tar
from captioner.errors import BulkError, first_line


@dataclass(frozen=True, slots=True)
class BulkImage:
    """An image of a collection.

    Attributes:
        name: its name in the output.
        data: its file or its bytes; ``None`` if it cannot be read.
        error: why it cannot be read.
    """

    name: str
    data: Path | bytes | None
    error: str = ""

    @property
    def size(self) -> int:
        """Its size in memory, in bytes."""
        return len(self.data) if isinstance(self.data, bytes) else 0


def images(part: Part, *, column: str | None = None) -> Iterator[BulkImage]:
    """Yield the images of a part.

    Args:
        part: the part.
        column: image column of a Parquet file that could not be read when the plan was made.

    Raises:
        BadPart: it cannot be read to its end; the images before that have been yielded.
        BulkError: a required program is not installed.
    """
    if part.kind == "pictures":
        found: Iterator[tuple[str, Path | bytes | str]] = _listed(part)
    elif part.kind == "tar":
        members = images_in_tar(functools.partial(opened, part.address))
        found = ((f"{part.address}:{name}", data) for name, data in members)
    else:
        found = ((f"{part.address}:{row}", data) for row, data in _in_parquet(part, column))
    for name, data in found:
        yield BulkImage(name, None, data) if isinstance(data, str) else BulkImage(name, data)


def _listed(part: Part) -> Iterator[tuple[str, Path | bytes | str]]:
    with opened(part.address) as listed:
        listed.seek(part.start)
        for _ in range(part.count):
            try:
                name = str(json.loads(listed.readline()))
            except (ValueError, RecursionError) as error:
                raise BadPart(f"the list of images is damaged ({first_line(error)})") from None
            yield name, _remote(name) if "://" in name else Path(name)


def _remote(name: str) -> bytes | str:
    """Return the bytes of a file that fsspec opens, or the reason why they are not read."""
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
