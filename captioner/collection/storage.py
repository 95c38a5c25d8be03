"""Local files, and those that fsspec opens: listing and opening them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captioner.collection.limits import BadPart
from captioner.data.find import is_hidden
from captioner.errors import BulkError, first_line


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


def size_of(file: Any) -> int:
    """Return the size in bytes of an open, seekable file."""
    position = file.tell()
    size = int(file.seek(0, io.SEEK_END))
    file.seek(position)
    return size


def remote_names(source: str) -> list[str]:
    """Return the files of a URL or pattern that fsspec opens, subfolders included, in the order of :func:`sort_key`.

    Raises:
        BulkError: they cannot be listed.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source)
        pattern = re.search(r"[*?[]", path)
        hits = {path: "directory"}
        if pattern:
            hits = {name: about["type"] for name, about in system.glob(path, detail=True).items()}
        # Hidden files below the named folder are left out, unless the pattern itself names hidden ones.
        top = (path[: pattern.start()].rpartition("/")[0] if pattern else path.rstrip("/")) + "/"
        shown = is_hidden(path.removeprefix(top))
        names = {
            name
            for hit, kind in hits.items()
            for name in (system.find(hit) if kind == "directory" else [hit])  # find of a file gives the file
            if shown or not (name.startswith(top) and is_hidden(name.removeprefix(top)))
        }
        return sorted(map(system.unstrip_protocol, names), key=sort_key)
    except Exception as error:  # each kind of storage has its own
        raise BulkError(f"{source}: cannot be listed ({first_line(error)})") from error


def sort_key(name: str) -> list[str]:
    """Return a key that sorts names in the order of a walk: folder by folder."""
    return name.replace(os.sep, "/").split("/")
