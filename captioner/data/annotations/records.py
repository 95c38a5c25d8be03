"""Recognising tables and JSON records of captions by the names or the contents of their fields."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os.path import splitext

from captioner.data.annotations.source import Source
from captioner.data.dataset import FOLDER_SPLITS, UNDIVIDED, split_name
from captioner.data.find import IMAGE_EXTENSIONS

TABLES = frozenset({".csv", ".tsv", ".tab", ".psv"})
LINES = frozenset({".jsonl", ".ndjson"})

# Names of fields without case, spaces, "_" and "-", in the order of precedence.
_IMAGE = (
    *("image", "imagename", "imagepath", "imagefile", "filename", "imagefilename", "filepath", "file", "path"),
    *("img", "imgname", "imgpath", "photo", "picture", "imageid", "imgid", "cocoid"),
)
_CAPTION = ("caption", "text", "sentence", "description", "comment", "raw")
_SPLIT = ("split", "subset", "partition", "set")
_KNOWN_SPLITS = FOLDER_SPLITS | {UNDIVIDED}

_DELIMITERS = ",;\t|"
_MAX_ROW_LINES = 20  # lines; a quotation mark open for longer is a mistake


@dataclass(frozen=True)
class FieldLayout:
    """The indices of the fields of a record with the image's name, its captions and its split."""

    image: int
    captions: tuple[int, ...]
    split: int | None


@dataclass(frozen=True)
class TableFormat:
    """The format of a table.

    Attributes:
        delimiter: between columns.
        columns: number of columns.
        layout: their contents.
        first: index of the line of the first row.
    """

    delimiter: str
    columns: int
    layout: FieldLayout
    first: int


def name_column(names: Sequence[str], given: Container[str]) -> str | None:
    """Return the field with the name or id of an image, by its usual names; only those in ``given`` count."""
    plain = {_plain(name): name for name in names if name in given}
    return next((plain[name] for name in _IMAGE if name in plain), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())


@lru_cache(maxsize=256)
def layout_of(names: tuple[str, ...]) -> FieldLayout | None:
    """Return the layout of a record by the names of its fields; ``None`` without image or captions."""
    plain = [_plain(name) for name in names]
    image = next((plain.index(name) for name in _IMAGE if name in plain), None)
    split = next((plain.index(name) for name in _SPLIT if name in plain), None)
    for word in _CAPTION:
        lists = [index for index, name in enumerate(plain) if name == f"{word}s"]
        single = [index for index, name in enumerate(plain) if re.fullmatch(rf"{word}\d*", name)]
        if image is not None and (lists or single):
            return FieldLayout(image, tuple(lists[:1] or single), split)
    return None


def table_of(lines: Sequence[str]) -> TableFormat | None:
    """Return the format of a table by its header or its rows; ``None`` if it is not a table."""
    filled = [index for index, line in enumerate(lines) if line.strip()]
    delimiters = _DELIMITERS
    if filled and (match := re.fullmatch(r'"?sep=(.)"?', lines[filled[0]].strip("\ufeff "))):  # written by Excel
        delimiters, filled = match[1], filled[1:]
    if not filled:
        return None
    for delimiter in delimiters:
        names = _cells(lines[filled[0]], delimiter)
        if (layout := layout_of(tuple(names))) is not None:
            return TableFormat(delimiter, len(names), layout, filled[0] + 1)
    for delimiter in reversed(delimiters):
        rows = [_cells(lines[index], delimiter) for index in filled[:100]]
        if (found := _without_header(rows)) is not None:
            return TableFormat(delimiter, *found, filled[0])
    return None


def _without_header(rows: Sequence[Sequence[str]]) -> tuple[int, FieldLayout] | None:
    """Return the number of columns of a table without a header, and their layout."""
    count = len(rows[0])
    image = next((column for column, cell in enumerate(rows[0]) if _is_image(cell)), None)
    if image is None or count < 2:
        return None
    if any(len(row) != count for row in rows):
        # Captions with commas and no quotation marks: unambiguous if only the name precedes them.
        named = image == 0 and sum(_is_image(row[0]) for row in rows) > len(rows) / 2
        return (2, FieldLayout(0, (1,), None)) if named else None
    others = [column for column in range(count) if column != image]
    splits = [column for column in others if all(split_name(row[column]) in _KNOWN_SPLITS for row in rows)]
    texts = [
        column for column in others if column not in splits and not all(row[column].strip().isdigit() for row in rows)
    ]
    if len(texts) != 1 or sum(_is_image(row[image]) for row in rows) <= len(rows) / 2:
        return None
    return count, FieldLayout(image, tuple(texts), splits[0] if splits else None)


def _is_image(cell: str) -> bool:
    return splitext(cell.strip().lower())[1] in IMAGE_EXTENSIONS


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return line.split(delimiter)


def rows_of(lines: Sequence[str], table: TableFormat) -> Iterator[tuple[int, list[str] | None]]:
    """Yield the rows of a table: the index of the first line, and the cells, or None if quotation marks do not match.

    With plain ``csv.reader``, one unclosed quotation mark would swallow the rest of the file. A caption in the last
    column may contain delimiters and quotation marks without being quoted.
    """
    delimiter, columns, index = table.delimiter, table.columns, table.first
    open_end = table.layout.captions == (columns - 1,)
    while index < len(lines):
        row, cells, used = lines[index], None, 1
        if '"' not in row:
            cells = row.split(delimiter)
        else:
            for span in range(1, _MAX_ROW_LINES + 1):
                # Tables with tabs or bars often have quotation marks in cells, not around them.
                if span > 1 and delimiter in "\t|" and lines[index : index + span][-1].count(delimiter) >= columns - 1:
                    break
                try:
                    text = [line + "\n" for line in lines[index : index + span]]
                    cells, used = next(csv.reader(text, delimiter=delimiter, strict=True)), len(text)
                    break
                except csv.Error as error:
                    if "end of data" not in str(error):
                        break
        if cells is None and (open_end or (row.count(delimiter) == columns - 1 and delimiter in "\t|")):
            cells = row.split(delimiter, columns - 1)
        elif cells is not None and open_end and len(cells) > columns:
            cells = [*cells[: columns - 1], delimiter.join(cells[columns - 1 :])]
        if row.strip():
            yield index, cells
        index += used


def is_json(source: Source) -> bool:
    """Return whether a caption file is one JSON document, by its name and beginning."""
    suffix = source.path.suffix.lower()
    if suffix in TABLES | LINES or _is_record(_parsed(source.head())):
        return False
    return suffix == ".json" or source.head().startswith(("{", "["))


def is_lines(source: Source) -> bool:
    """Return whether a caption file has a JSON record on each line, or is a JSON list of records."""
    return source.path.suffix.lower() in LINES or _is_record(_parsed(source.head())) or is_record_list(source)


def is_record_list(source: Source) -> bool:
    """Return whether a caption file is a JSON list of records."""
    return is_json(source) and isinstance(found := source.json(source.path), list) and any(map(_is_record, found[:1]))


def _is_record(value: object) -> bool:
    return isinstance(value, dict) and layout_of(tuple(value)) is not None


def _parsed(line: str) -> object:
    try:
        return json.loads(line) if line.startswith("{") else None
    except (ValueError, RecursionError):
        return None
