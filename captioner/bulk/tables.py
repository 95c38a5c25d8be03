"""The images in a Parquet file: which column has them, and their bytes, one row after the other."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, TypeAlias

from captioner.bulk import limits
from captioner.bulk.limits import BadPart, check_unpacked, too_large
from captioner.errors import BulkError, first_line
from captioner.rows import require_parquet

Column: TypeAlias = "tuple[str, ...]"  # its name, after those of the records that it is in

_FREE_ROWS = 1 << 20  # that a group may have however few its bytes are; writers put fewer into one
_BYTES = ("binary", "large_binary", "binary_view")  # older pyarrow has no function for the last
_A_ROW = 1000  # bytes that a row counts for at least, since many rows may share a value


class NoImages(Exception):
    """A Parquet file that holds no bytes, such as a table of metadata for images stored elsewhere."""


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
        return parquet.ParquetFile(file, buffer_size=1 << 20)  # without a buffer it holds a whole column of a group
    except Exception as error:  # pyarrow's own, or of the storage
        raise BadPart(f"no Parquet file, or a damaged one ({first_line(error)})") from None


def column_of(schema: Any, column: str | None) -> Column:
    """Return the column of images: the only one of bytes, or of records with bytes, or the one of a name.

    Of a record with several columns of bytes, that called ``bytes`` is taken.

    Args:
        schema: of the file, Arrow's.
        column: its name, with dots between those of records; the name of the record will do.

    Raises:
        NoImages: no column holds bytes.
        BulkError: there are several, or none of that name.
    """
    found = [path for field in schema for path in _columns(field)]
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


def _columns(field: Any) -> Iterator[Column]:
    """Yield the paths of the columns of bytes in a field."""
    from pyarrow import types

    kind = field.type
    kind = getattr(kind, "storage_type", kind)  # of an extension's
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        yield from ((field.name, *path) for inner in kind for path in _columns(inner))
    elif str(kind) in _BYTES:
        yield (field.name,)


def _has_bytes(kind: Any) -> bool:
    """Return whether a type has bytes of any length somewhere inside."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(_has_bytes(inner.type) for inner in kind)
    inner = getattr(kind, "item_type", None) or getattr(kind, "value_type", None)  # of a map, or of a list
    return str(kind) in _BYTES or (inner is not None and _has_bytes(inner))


def images_in_group(table: Any, group: int, column: Column, size: int) -> Iterator[tuple[int, bytes | str]]:
    """Yield the images of a row group: the number of the row in the file with its bytes, or with why there are none.

    Args:
        table: an open Parquet file.
        group: its number.
        column: the column of the images.
        size: bytes of the file.

    Raises:
        BadPart: it cannot be read, or not to its end; the images before that have been yielded.
    """
    try:
        name, rows = ".".join(column), table.metadata.row_group(group)
        packed = unpacked = 0
        for chunk in map(rows.column, range(rows.num_columns)):
            if chunk.path_in_schema == name:
                packed = min(packed + chunk.total_compressed_size, size)
                unpacked += chunk.total_uncompressed_size
        check_unpacked(unpacked, packed, limits.MOST_BYTES)  # a page is unpacked at once, up to 2 GB
        if reason := too_large(unpacked // max(1, rows.num_rows)):
            raise BadPart(f"an image in it {reason}")
        if rows.num_rows > _FREE_ROWS + packed:
            raise BadPart(f"{packed:,} bytes cannot hold {rows.num_rows:,} images")
        first = sum(table.metadata.row_group(before).num_rows for before in range(group))
        # One row at a time, as a dictionary may repeat one large value in all of them; it costs 60 us a row.
        batches, given = table.iter_batches(batch_size=1, row_groups=[group], columns=[name]), 0
        for row, batch in enumerate(batches):
            data = _bytes_in(batch.column(column[0])[0], column[1:])
            given += data.size if data else 0
            check_unpacked(given, packed + _A_ROW * row)
            yield first + row, (too_large(data.size) or data.to_pybytes()) if data else "has no bytes"
    except BadPart:
        raise
    except Exception as error:  # pyarrow's own, or of the storage
        raise BadPart(f"row group {group} cannot be read ({first_line(error)})") from None


def _bytes_in(value: Any, names: Column) -> Any:
    """Return the bytes in a value, if it has any: an Arrow buffer, not yet copied."""
    from pyarrow import DictionaryScalar, ExtensionScalar

    for name in names:
        value = value[name] if value.is_valid else value
    while isinstance(value, (DictionaryScalar, ExtensionScalar)) and value.is_valid:
        value = value.value
    return value.as_buffer() if value.is_valid else None


def size_of(file: Any) -> int:
    """Return the bytes of a file that can be read anywhere."""
    at = file.tell()
    size = int(file.seek(0, io.SEEK_END))
    file.seek(at)
    return size
