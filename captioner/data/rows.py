r"""The rows that commands write for images, as JSON, CSV or Parquet.

Every row has the same fields. JSON and Parquet escape bytes of a name that are not UTF-8, ``\udce9`` for the byte E9,
from which Python's JSON reader restores the name; CSV keeps the bytes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from captioner import files
from captioner.errors import BulkError, ImageError
from captioner.machine.packages import missing

if TYPE_CHECKING:
    from captioner.caption import Caption

Row: TypeAlias = "dict[str, Any]"

STAMP = ("bytes", "modified")
"""The size and the time, in UTC, of an image's file; null if it is not a local file."""

FIELDS = ("image", "caption", "log_probability", "model", "error", *STAMP)
"""Fields of every row, in this order; the caption of an unreadable image is null, and so is the error of others."""

_GROUP = 1000  # rows of a row group in Parquet
# A spreadsheet runs a cell that begins like this. Cells with quotes in front are guarded too, to be reversible.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def row(
    image: str,
    result: Caption | ImageError,
    *,
    model: str,
    attention: bool = False,
    stamp: tuple[int | None, str | None] = (None, None),
) -> Row:
    """Return an image's row: :data:`FIELDS`, then the other fields of :meth:`Caption.to_dict`.

    Args:
        image: the name of the image.
        result: its caption, or its error.
        model: the name of the model.
        attention: add the attention for each word.
        stamp: the size and the time of the image's file.
    """
    values: Row = dict.fromkeys(FIELDS) | {"model": model} | dict(zip(STAMP, stamp, strict=True))
    if isinstance(result, ImageError):
        values["error"] = result.reason
    else:
        values |= result.to_dict(attention=attention)
    return values | {"image": image}


def columns(more: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the columns of a table: those of every row, with more after the caption."""
    return (*FIELDS[:2], *more, *FIELDS[2:])


@contextmanager
def writer(path: Path, *, more: Sequence[str] = ()) -> Iterator[Callable[[Row], None]]:
    """Write rows to a file, which appears when the block ends without an error.

    JSON has all fields of a row. A table (CSV or Parquet) has :func:`columns`, and a row for each caption of an image,
    best first.

    Args:
        path: the file, ending in .jsonl, .csv or .parquet.
        more: further columns of a table, after the caption.

    Yields:
        A function that writes a row.

    Raises:
        BulkError: Parquet needs pyarrow, which is not installed.
    """
    names, format = columns(more), files.format_of(path)
    with files.atomic_path(path) as temporary:
        if format == "parquet":
            with _parquet(temporary, names) as write:
                yield write
            return
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield appender(file, names if format == "csv" else None)


def appender(file: TextIO, names: Sequence[str] | None, *, header: bool = True) -> Callable[[Row], None]:
    """Return a function that writes the row of an image.

    Args:
        file: opened with ``newline=""``.
        names: the columns of a CSV table; ``None`` for JSONL.
        header: write the header of a table first.
    """
    if names is None:
        return lambda row: print(files.json_text(row), file=file)
    write_row = csv_rows(file, names, header=header)

    def write_all(row: Row) -> None:
        for caption in _captions(row):
            write_row(caption)

    return write_all


def csv_rows(file: TextIO, names: Sequence[str], *, header: bool = True) -> Callable[[Row], None]:
    """Write the header of a CSV table, and return a function that writes a row.

    A cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return, after any number of apostrophes,
    gets one more apostrophe in front: a spreadsheet would run it as a formula. To restore such a cell, remove one.

    Args:
        file: opened with ``newline=""``.
        names: the columns; other values of a row are left out.
        header: write the header first.
    """

    class Lines:  # csv quotes only cells with characters of its line end, which is therefore CR LF
        def write(self, line: str) -> None:
            file.write(line.removesuffix("\r\n") + "\n")

    table = csv.DictWriter(Lines(), names, extrasaction="ignore", lineterminator="\r\n")
    if header:
        table.writeheader()

    def write(row: Row) -> None:
        table.writerow({name: _guarded(value) for name, value in row.items()})

    return write


def _guarded(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def unguarded(cell: str) -> str:
    """Return the value of a cell that :func:`csv_rows` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _captions(row: Row) -> Iterator[Row]:
    for caption in (row, *row.get("others", ())):
        translation = caption.get("translation", {})
        yield (
            {name: row[name] for name in FIELDS}
            | caption
            | {"language": translation.get("language"), "translation": translation.get("text")}
        )


@contextmanager
def _parquet(path: Path, names: Sequence[str]) -> Iterator[Callable[[Row], None]]:
    parquet = require_parquet(str(path))
    import pyarrow

    kinds = {"log_probability": pyarrow.float64(), "bytes": pyarrow.int64()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in names])
    rows: list[Row] = []

    with parquet.ParquetWriter(path, schema) as table:

        def flush() -> None:
            table.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            rows.clear()

        def write(row: Row) -> None:
            for each in _captions(row):
                rows.append({name: _utf8(value) for name, value in each.items()})
            if len(rows) >= _GROUP:
                flush()

        yield write
        flush()


def _utf8(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def require_parquet(what: str) -> Any:
    """Return pyarrow's module for Parquet.

    Args:
        what: the option or file that needs it, for the error.

    Raises:
        BulkError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise BulkError(missing(f"{what}: Parquet", "pyarrow")) from None
    return pyarrow.parquet
