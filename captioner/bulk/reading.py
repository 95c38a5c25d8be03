"""Reading the pictures of a part, one after the other, from local files or anything that fsspec opens."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.bulk.parts import Part
from captioner.data.find import IMAGE_EXTENSIONS
from captioner.errors import BulkError, first_line


class BadPart(Exception):
    """A part that cannot be read, or not to its end; its text is the reason."""


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


def pictures(part: Part, *, column: str | None = None) -> Iterator[Picture]:
    """Yield the pictures of a part.

    Args:
        part: what to read.
        column: of a Parquet file, the one with the pictures.

    Raises:
        BadPart: it cannot be read, or not to its end; those before have been yielded.
        BulkError: a program that is needed is not installed, or the column is not there.
    """
    if part.kind == "pictures":
        yield from _listed(part)
    elif part.kind == "tar":
        yield from _in_tar(part.address)
    else:
        yield from _in_parquet(part.address, part.start, column)


def _listed(part: Part) -> Iterator[Picture]:
    with open(part.address, "rb") as listed:
        listed.seek(part.start)
        for _ in range(part.count):
            name = os.fsdecode(listed.readline().rstrip(b"\n"))
            if "://" not in name:
                yield Picture(name, Path(name))
                continue
            try:
                with _opened(name) as file:
                    yield Picture(name, file.read())
            except Exception as error:  # each kind of storage has its own
                yield Picture(name, None, f"cannot be read: {first_line(error)}")


def _in_tar(address: str) -> Iterator[Picture]:
    count = 0
    try:
        with _opened(address) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                if not member.isfile() or os.path.splitext(member.name)[1].lower() not in IMAGE_EXTENSIONS:
                    continue
                content = archive.extractfile(member)
                data = content.read() if content else b""
                if len(data) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                count += 1
                yield Picture(f"{address}:{member.name}", data)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise BadPart(f"the tar file ends or breaks after {count:,} pictures ({first_line(error)})") from None


def _in_parquet(address: str, group: int, column: str | None) -> Iterator[Picture]:
    with open_parquet(address) as table:
        name = _column_of(table.schema_arrow, column, address)
        row = sum(table.metadata.row_group(before).num_rows for before in range(group))
        try:
            for batch in table.iter_batches(batch_size=64, row_groups=[group], columns=[name]):
                for value in batch.column(0).to_pylist():
                    data = value.get("bytes") if isinstance(value, dict) else value
                    yield Picture(f"{address}:{row}", data, "" if data else "has no bytes")
                    row += 1
        except (OSError, ValueError) as error:  # pyarrow's own are of these
            raise BadPart(f"row group {group} cannot be read ({first_line(error)})") from None


def _column_of(schema: Any, column: str | None, address: str) -> str:
    """Return the column of pictures: the one of that name, else the only one of bytes, or of records with bytes."""
    import pyarrow

    def holds(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return any(field.name == "bytes" and holds(field.type) for field in kind)
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

    found = [field.name for field in schema if holds(field.type)]
    named = [name for name in found if name == column] if column else found
    if len(named) != 1:
        what = f"no column {column!r} with pictures' bytes" if column else f"{len(found)} columns of bytes"
        raise BulkError(f"{address}: has {what}; name one of its columns with --column: {', '.join(schema.names)}")
    return named[0]


@contextmanager
def open_parquet(address: str) -> Iterator[Any]:
    """Open a Parquet file.

    Raises:
        BadPart: it is damaged, or not there.
        BulkError: pyarrow is not installed.
    """
    parquet = require_parquet(address)
    with _opened(address) as file:
        try:
            table = parquet.ParquetFile(file)
        except (OSError, ValueError) as error:
            raise BadPart(f"no Parquet file, or a damaged one ({first_line(error)})") from None
        yield table


def require_parquet(what: str) -> Any:
    """Return pyarrow's module for Parquet.

    Raises:
        BulkError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise BulkError(f"{what}: Parquet needs pyarrow; install it with: pip install 'captioner[bulk]'") from None
    return pyarrow.parquet


@contextmanager
def _opened(address: str) -> Iterator[Any]:
    if "://" not in address:
        try:
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
