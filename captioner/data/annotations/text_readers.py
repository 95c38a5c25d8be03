"""Readers of the caption formats with one line for each caption: Flickr8k's, Kaggle's, JSON lines and tables."""

from __future__ import annotations

import json
import re
from ast import literal_eval
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import StringIO
from itertools import chain
from pathlib import Path
from token import STRING
from tokenize import TokenError, generate_tokens
from typing import Any

from captioner.data.annotations.formats import IMAGE_FOLDERS, reader
from captioner.data.annotations.records import LINES, TABLES, is_lines, layout_of, rows_of, table_of
from captioner.data.annotations.source import (
    MAX_VALUE_LETTERS,
    MalformedError,
    Source,
    as_file_name,
    as_id,
    as_text,
    first_letters,
    get_field,
)
from captioner.data.dataset import split_name
from captioner.errors import AnnotationError

_LIST = re.compile(r"""\s*\[\s*u?["'].*["']\s*\]\s*""", re.DOTALL)
_FLICKR8K_LINE = re.compile(r"([^\t]+)#(\d+)\t(.*)", re.DOTALL)


def no_split(name: str) -> str:
    """Return no split for an image name."""
    return ""


@reader(
    "flickr8k",
    "Flickr8k.token.txt",
    "Flickr8k_text/Flickr8k.token.txt",
    accepts=lambda source: _FLICKR8K_LINE.fullmatch(source.head()) is not None,
)
def _flickr8k(source: Source) -> None:
    """Flickr8k as released: one line for each caption, one list of files for each split. Unlisted images are "other".

    The release has captions of ``2258277193_586949ec62.jpg.1``, a missing file; they are reported as one problem.
    """
    file = source.files[0]
    listed: dict[str, tuple[str, str]] = {}  # file name -> split, place
    for split in ("train", "dev", "test"):
        names = file.with_name(f"Flickr_8k.{split}Images.txt")
        for number, line in source.lines(names) if names.is_file() else ():
            place, name = f"{names}:{number}", line.strip()
            if name in listed:
                source.problem(place, f'"{name}" already exists, from {listed[name][1]}')
            elif name:
                listed[name] = split, place
    # The release consists of two archives: the images may be in the folder of the text or next to it.
    homes = [root / name for root in (file.parent, file.parent.parent) for name in IMAGE_FOLDERS]
    folders = source.existing(*([source.image_folder] if source.image_folder else [*homes, file.parent]))
    absent: set[str] = set()
    seen: set[str] = set()  # whole lines, since some files give every caption the same number
    for number, line in source.lines(file):
        place = f"{file}:{number}"
        if not line.strip():
            continue
        try:
            match = _FLICKR8K_LINE.fullmatch(line)
            if match is None:
                raise MalformedError('the line is not "photo.jpg#number<TAB>caption"')
            name = as_file_name(match[1], "the file name")
            if name in absent:
                continue
            if name not in source.entries:
                found = source.find(name, *folders)
                if re.search(r"\.jpe?g\.\d+$", name, re.IGNORECASE) and not source.holds(found.path):
                    absent.add(name)
                    raise MalformedError(f'"{name}" is not the name of an image, and no such file exists')
                source.add_image(name, found, listed.get(name, ("other", ""))[0], place)
            if line in seen:
                raise MalformedError(f'this caption "{name}#{match[2]}" already exists')
            seen.add(line)
            source.add_caption(name, match[3])
        except MalformedError as error:
            source.problem(place, error)
    for name, (_, place) in listed.items():
        if name not in source.entries:
            source.problem(place, f'"{name}" has no caption in {file.name}')


@reader(
    "kaggle",
    "captions.txt",
    accepts=lambda source: (
        source.path.suffix.lower() not in TABLES and source.head().replace('"', "").lower() == "image,caption"
    ),
)
def _kaggle(source: Source) -> None:
    """Flickr8k and Flickr30k as published on Kaggle: ``captions.txt`` and ``Images/``, without splits."""
    read_table(source, source.files[0], homes_of(source, ["Images", "images", ""]))


@reader("jsonl", "captions.jsonl", accepts=is_lines)
def _jsonl(source: Source) -> None:
    """One JSON object on each line, or a list of them."""
    read_lines(source, source.files[0], homes_of(source, ["", "images", "Images"]))


def read_lines(
    source: Source, file: Path, homes: Sequence[Path], *, inside: str = "", split_of: Callable[[str], str] = no_split
) -> None:
    """Read the records of a file of JSON lines, or of a JSON list.

    Args:
        source: takes the images, captions and problems.
        file: the file.
        homes: folders that image names are relative to.
        inside: put before every image name, for example "train/".
        split_of: the split of an image by its name, where the record has none.
    """
    for place, record in _records(source, file):
        try:
            if isinstance(record, MalformedError):
                raise record
            names = tuple(record) if isinstance(record, dict) else ()
            if (layout := layout_of(names)) is None:
                image, captions, split = get_field(record, "image"), [get_field(record, "caption")], None
            else:
                image = record[names[layout.image]]
                captions = [record[names[index]] for index in layout.captions]
                split = None if layout.split is None else record[names[layout.split]]
            image_id = _add_to(source, place, image, split, homes, inside, split_of)
        except MalformedError as error:
            source.problem(place, error)
            continue
        add_captions(source, place, image_id, captions)


def _records(source: Source, file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the places of records and their values, which may be a :class:`MalformedError`."""
    if file.suffix.lower() not in LINES and source.head(file).startswith("["):
        records = source.json(file)
        yield from ((f"{file}:$[{index}]", record) for index, record in enumerate(records))
        return
    for number, line in source.lines(file):
        if line.strip():
            try:
                yield f"{file}:{number}", json.loads(line)
            except ValueError as error:
                yield f"{file}:{number}", MalformedError(f"not JSON: {error}")
            except RecursionError:
                yield f"{file}:{number}", MalformedError("its JSON is nested too deeply")


@reader(
    "csv",
    "captions.csv",
    "captions.tsv",
    "results.csv",
    accepts=lambda source: source.path.suffix.lower() in TABLES or table_of(source.start()) is not None,
)
def _csv(source: Source) -> None:
    """A table with a header."""
    read_table(source, source.files[0], homes_of(source, ["", "images", "Images", *IMAGE_FOLDERS]))


def homes_of(source: Source, folders: Sequence[str]) -> Sequence[Path]:
    """Return the requested folder of images, or the existing ones of these next to the captions."""
    return source.existing(
        *([source.image_folder] if source.image_folder else [source.files[0].parent / folder for folder in folders])
    )


def _add_to(
    source: Source,
    place: str,
    image: object,
    split: object,
    homes: Sequence[Path],
    inside: str,
    split_of: Callable[[str], str],
) -> str:
    """Add the image of a row if it is new, and return its id; all rows of an image must agree on its split."""
    name = inside + as_id(image, '"image"')
    part = (as_text(split, '"split"') if split is not None else "") or split_of(name)
    if name not in source.entries:
        source.add_image(name, source.find(name, *homes), part, place)
    elif part and split_name(part) != (known := source.entries[name]).split:
        raise MalformedError(f'"{name}" is in the split "{part}" here and in "{known.split}" at {known.place}')
    return name


def add_captions(source: Source, place: str, image_id: str, values: Sequence[object]) -> None:
    """Add the captions in the fields of a row, each a caption or a list; some of several fields may be empty."""
    captions = list(chain.from_iterable(_list_in(value) for value in values))
    filled = [caption for caption in captions if caption is not None and caption != "" and not str(caption).isspace()]
    for caption in filled if len(values) > 1 and filled else captions:
        try:
            source.add_caption(image_id, caption)
        except MalformedError as error:
            source.problem(place, error)


def _list_in(value: object) -> list[object]:
    """Return the captions of a field: one, a list, or a list written as text by JSON, Python or numpy."""
    if isinstance(value, str) and len(value) <= MAX_VALUE_LETTERS and _LIST.fullmatch(value):
        for parse in (json.loads, _strings):
            with suppress(ValueError, SyntaxError, RecursionError, TokenError):
                found = parse(value.strip())
                if isinstance(found, list) and found and all(isinstance(caption, str) for caption in found):
                    return found
    return value if isinstance(value, list) else [value]


def _strings(text: str) -> list[object]:
    """Return the strings of a list written by Python, or by numpy without commas; else none."""
    tokens = [token for token in generate_tokens(StringIO(text).readline) if token.string.strip()][1:-1]
    strings = [token.string for token in tokens if token.type == STRING]
    others = {token.string for token in tokens if token.type != STRING}
    return [literal_eval(each) for each in strings] if others <= {","} else []


def read_table(
    source: Source, file: Path, homes: Sequence[Path], *, inside: str = "", split_of: Callable[[str], str] = no_split
) -> None:
    """Read ``image,caption[,split]``; other columns are ignored. See :func:`read_lines` for the arguments."""
    lines = [line for _, line in source.lines(file)]
    table = table_of(lines)
    if table is None:
        start = next((index for index, line in enumerate(lines) if line.strip()), 0)
        raise AnnotationError(
            f"{file}:{start + 1}: this line must be the header image,caption or image,caption,split, in any order and "
            f"with any other columns; it is {first_letters(''.join(lines[start : start + 1]))}"
        )
    layout = table.layout
    for index, cells in rows_of(lines, table):
        place = f"{file}:{index + 1}"
        try:
            if cells is None:
                raise MalformedError("the quotation marks do not match")
            if len(cells) != table.columns:
                raise MalformedError(f"the table has {table.columns} columns, this row {len(cells)}")
            split = None if layout.split is None else cells[layout.split]
            image_id = _add_to(source, place, cells[layout.image], split, homes, inside, split_of)
        except MalformedError as error:
            source.problem(place, error)
            continue
        add_captions(source, place, image_id, [cells[column] for column in layout.captions])
