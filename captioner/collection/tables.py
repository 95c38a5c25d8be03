"""The images in a Parquet file: finding their column, and reading their bytes row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from captioner.collection import limits
from captioner.collection.limits import BadPart, check_unpacked, too_large
from captioner.data.packed import BYTES, Column, bytes_columns
from captioner.data.rows import require_parquet
from captioner.errors import BulkError, first_line

_FREE_ROWS = 1 << 20  # rows that a group may have at any size; writers put fewer into one
_MIN_ROW_BYTES = 1000  # bytes that a row counts for at least, since rows may share a value


class NoImages(Exception):
    """A Parquet file without a column of bytes, such as metadata of images stored elsewhere."""


def open_table(file: Any) -> Any:
    """Open a Parquet file.

    Args:
        file: an open file.

    Raises:
        BadPart: it is damaged.
        BulkError: pyarrow is not installed.
    """
    parquet = require_parquet(str(getattr(file, "name", "")) or "a Parquet file")
    try:
        return parquet.ParquetFile(file, buffer_size=1 << 20)  # without a buffer it loads a whole column of a group
    except Exception as error:  # pyarrow's own, or of the storage
        raise BadPart(f"not a Parquet file, or damaged ({first_line(error)})") from None


def column_of(schema: Any, column: str | None) -> Column:
    """Return the path of the image column: the named one, or the only one that holds bytes, directly or in a struct.

    In a struct with several columns of bytes, ``bytes`` is taken.

    Args:
        schema: the file's Arrow schema.
        column: dotted path of the column, or of a struct around it; ``None`` finds it.

    Raises:
        NoImages: no column holds bytes.
        BulkError: several columns match, or none.
    """
    found = [path for field in schema for path in bytes_columns(field)]
    if not found:
        if lists := [field.name for field in schema if _has_bytes(field.type)]:
            raise BulkError(f"has bytes only in lists, in {', '.join(lists)}; save it again with a row for each image")
        raise NoImages
    chosen = [path for path in found if column in (None, *(".".join(path[:end]) for end in range(1, len(path) + 1)))]
    if len(chosen) > 1:
        chosen = [path for path in chosen if ".".join(path) == column] or [
            path for path in chosen if path[-1] == "bytes" or (*path[:-1], "bytes") not in chosen
        ]
    if len(chosen) != 1:
        what = f"no column {column!r} of bytes" if column and not chosen else f"{len(chosen)} columns of bytes"
        names = ", ".join(".".join(path) for path in found)
        if len(set(chosen)) == 1:
            raise BulkError(f"has {len(chosen)} columns of the name {names.split(', ')[0]}; rename all but one")
        raise BulkError(f"has {what}; run again and name one with --column: {names}")
    return chosen[0]


def _has_bytes(kind: Any) -> bool:
    """Return whether a type holds bytes at any depth."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(_has_bytes(inner.type) for inner in kind)
    inner = getattr(kind, "item_type", None) or getattr(kind, "value_type", None)  # of a map or a list
    return str(kind) in BYTES or (inner is not None and _has_bytes(inner))


def images_in_group(table: Any, group: int, column: Column, size: int) -> Iterator[tuple[int, bytes | str]]:
    """Yield the images of a row group: the row's number in the file, with its bytes or the reason why it has none.

    Args:
        table: an open Parquet file.
        group: number of the row group.
        column: path of the image column.
        size: size of the file in bytes.

    Raises:
        BadPart: it cannot be read to its end; the images before that have been yielded.
    """
    try:
        name, rows = ".".join(column), table.metadata.row_group(group)
        packed = unpacked = 0
        for chunk in map(rows.column, range(rows.num_columns)):
            if chunk.path_in_schema == name:
                packed = min(packed + chunk.total_compressed_size, size)
                unpacked += chunk.total_uncompressed_size
        check_unpacked(unpacked, packed, limits.MAX_IMAGE_BYTES)  # pages of up to 2 GB are unpacked at once
        if reason := too_large(unpacked // max(1, rows.num_rows)):
            raise BadPart(f"an image in it {reason}")
        if rows.num_rows > _FREE_ROWS + packed:
            raise BadPart(f"{packed:,} bytes cannot hold {rows.num_rows:,} images")
        first = sum(table.metadata.row_group(before).num_rows for before in range(group))
        # One row at a time (60 us each), since a dictionary may repeat one large value in all rows.
        batches, given = table.iter_batches(batch_size=1, row_groups=[group], columns=[name]), 0
        for row, batch in enumerate(batches):
            data = _bytes_in(batch.column(column[0])[0], column[1:])
            given += data.size if data else 0
            check_unpacked(given, packed + _MIN_ROW_BYTES * row)
            yield first + row, (too_large(data.size) or data.to_pybytes()) if data else "has no bytes"
    except BadPart:
        raise
    except Exception as error:  # pyarrow's own, or of the storage
        raise BadPart(f"row group {group} cannot be read ({first_line(error)})") from None


def _bytes_in(value: Any, names: Column) -> Any:
    """Return the bytes in a value, if any, as an Arrow buffer that is not yet copied."""
    from pyarrow import DictionaryScalar, ExtensionScalar

    for name in names:
        value = value[name] if value.is_valid else value
    while isinstance(value, (DictionaryScalar, ExtensionScalar)) and value.is_valid:
        value = value.value
    return value.as_buffer() if value.is_valid else None
