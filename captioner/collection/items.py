"""Reading the images of a part, one after the other, from local files or any storage that fsspec opens."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from captioner.collection.limits import MAX_IMAGE_BYTES, BadPart, too_large
from captioner.collection.part import Part, archive_kind
from captioner.collection.storage import opened, size_of
from captioner.collection.tables import NoImages, column_of, images_in_group, open_table
from captioner.errors import BulkError, ImageError, first_line

_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Item:
    """An image of a collection.

    Attributes:
        name: its name in the output.
        data: the name of its file, or its bytes; ``None`` if it cannot be read.
        error: why it cannot be read.
        status: of a file, when it was found.
    """

    name: str
    data: str | bytes | None
    error: str = ""
    status: os.stat_result | None = None

    @classmethod
    def of_file(cls, name: str) -> Item:
        """Return the image of a local file; a missing one has no status."""
        try:
            return cls(name, name, status=os.stat(name))
        except (OSError, ValueError):
            return cls(name, name)

    @property
    def stamp(self) -> tuple[int | None, str | None]:
        """The size in bytes and the time of a file, for :data:`captioner.data.rows.STAMP`."""
        if self.status is None:
            return None, None
        time = datetime.fromtimestamp(self.status.st_mtime, timezone.utc)
        return self.status.st_size, time.isoformat(timespec="microseconds")

    @property
    def size(self) -> int:
        """Its size in memory, in bytes."""
        return len(self.data) if isinstance(self.data, bytes) else 0


def items_of(name: str | bytes, *, offline: bool = False) -> Iterator[Item]:
    """Yield the images of a local file or an address: itself, or those in an archive; bytes are those of one image.

    An archive that cannot be read to its end is an error after its good images.

    Args:
        name: of the file, its address, or bytes.
        offline: read no address.
    """
    if isinstance(name, bytes):
        yield Item("-", name)
        return
    remote = bool(_ADDRESS.match(name))
    if remote and offline:
        yield Item(name, None, "is an address, which is not read offline; download it, or leave out --offline")
        return
    kind = archive_kind(name)
    if kind is not None and (remote or os.path.isfile(name)):
        try:
            yield from images(Part(kind, name))
        except (BadPart, BulkError) as error:
            yield Item(name, None, str(error))
    elif remote:
        yield _remote(name)
    else:
        yield Item.of_file(name)


def images(part: Part, *, column: str | None = None) -> Iterator[Item]:
    """Yield the images of a part.

    Args:
        part: the part.
        column: image column of a Parquet file that could not be read when the plan was made.

    Raises:
        BadPart: it cannot be read to its end; the images before that have been yielded.
        BulkError: a required program is not installed.
    """
    found: Iterator[tuple[str, bytes | str]]
    if part.kind == "pictures":
        yield from _listed(part)
        return
    if part.kind in ("tar", "zip"):
        from captioner.collection.tars import images_in_tar
        from captioner.collection.zips import images_in_zip

        read = images_in_tar if part.kind == "tar" else images_in_zip
        members = read(functools.partial(opened, part.address))
        found = ((f"{part.address}:{name}", data) for name, data in members)
    else:
        found = ((f"{part.address}:{row}", data) for row, data in _in_parquet(part, column))
    for name, data in found:
        yield Item(name, None, data) if isinstance(data, str) else Item(name, data)


def _listed(part: Part) -> Iterator[Item]:
    with opened(part.address) as listed:
        listed.seek(part.start)
        for _ in range(part.count):
            try:
                name = str(json.loads(listed.readline()))
            except (ValueError, RecursionError) as error:
                raise BadPart(f"the list of images is damaged ({first_line(error)})") from None
            yield _remote(name) if _ADDRESS.match(name) else Item.of_file(name)


def _remote(name: str) -> Item:
    """Return an image on the web or in a file that fsspec opens, or the reason why it is not read."""
    if name.lower().startswith(("http://", "https://")):
        from captioner.data.addresses import fetch_image  # imports what takes time

        try:
            return Item(name, fetch_image(name, max_bytes=MAX_IMAGE_BYTES))
        except ImageError as error:
            return Item(name, None, error.reason)
    try:
        with opened(name) as file:
            data: bytes = b"" if too_large(getattr(file, "size", 0) or 0) else file.read(MAX_IMAGE_BYTES + 1)
            refused = too_large(max(getattr(file, "size", 0) or 0, len(data)))
            return Item(name, None, refused) if refused else Item(name, data)
    except BadPart as error:
        return Item(name, None, str(error))
    except Exception as error:  # each kind of storage has its own
        return Item(name, None, f"cannot be read: {first_line(error)}")


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
