"""Readers of the caption formats with one line for each caption: Flickr8k's, Kaggle's, JSON lines and tables."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence

from captioner.data.annotations.formats import PHOTO_FOLDERS, reader
from captioner.data.annotations.source import MalformedError, Source, as_file_name, as_text, get_field, get_list
from captioner.errors import AnnotationError

_FLICKR8K_LINE = re.compile(r"([^\t]+)#(\d+)\t(.*)", re.DOTALL)
_LONGEST_ROW = 20  # lines; a quotation mark that stays open for longer is a mistake


@reader(
    "flickr8k",
    "Flickr8k.token.txt",
    "Flickr8k_text/Flickr8k.token.txt",
    accepts=lambda source: _FLICKR8K_LINE.fullmatch(source.head()) is not None,
)
def _flickr8k(source: Source) -> None:
    """Flickr8k as released: one line for each caption, one list of files for each split. Unlisted photos are "other".

    The release has captions of ``2258277193_586949ec62.jpg.1``, a file that it does not contain; that is one problem.
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
    # The release comes as two archives, so the photos may be in the folder of the text or beside it.
    homes = [root / name for root in (file.parent, file.parent.parent) for name in PHOTO_FOLDERS]
    folders = [source.images] if source.images else [*homes, file.parent]
    absent: set[str] = set()
    seen: set[str] = set()
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
                path = source.find(name, *folders)
                if re.search(r"\.jpe?g\.\d+$", name, re.IGNORECASE) and not source.holds(path):
                    absent.add(name)
                    raise MalformedError(f'"{name}" is not the name of a photo, and no such file exists')
                source.add_photo(name, path, listed.get(name, ("other", ""))[0], place)
            key = f"{name}#{match[2]}"
            if key in seen:
                raise MalformedError(f'a caption "{key}" already exists')
            seen.add(key)
            source.add_caption(name, match[3])
        except MalformedError as error:
            source.problem(place, error)
    for name, (_, place) in listed.items():
        if name not in source.entries:
            source.problem(place, f'"{name}" has no caption in {file.name}')


@reader(
    "kaggle",
    "captions.txt",
    accepts=lambda source: source.path.suffix.lower() != ".csv" and _columns(source.head()) == ["image", "caption"],
)
def _kaggle(source: Source) -> None:
    """Flickr8k and Flickr30k as published on Kaggle: ``captions.txt`` and ``Images/``, without splits."""
    _table(source, ["Images", "images", ""])


@reader("jsonl", "captions.jsonl", accepts=lambda source: source.path.suffix.lower() in {".jsonl", ".ndjson"})
def _jsonl(source: Source) -> None:
    """One JSON object on each line."""
    for number, line in source.lines(source.files[0]):
        place = f"{source.files[0]}:{number}"
        if not line.strip():
            continue
        try:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise MalformedError(f"not JSON: {error}") from error
            image, split = get_field(record, "image"), record.get("split")
            captions = get_list(record, "captions") if "captions" in record else [get_field(record, "caption")]
            _add_to(source, place, image, split, ["", "images", "Images"])
        except MalformedError as error:
            source.problem(place, error)
            continue
        for caption in captions:
            try:
                source.add_caption(image.strip(), caption)
            except MalformedError as error:
                source.problem(place, error)


@reader("csv", "captions.csv", accepts=lambda source: source.path.suffix.lower() == ".csv")
def _csv(source: Source) -> None:
    """A table with a header."""
    _table(source, ["", "images", "Images"])


def _add_to(source: Source, place: str, image: object, split: object, folders: Sequence[str]) -> None:
    """Add the photo of a row unless it was added before; all rows of a photo must agree on its split."""
    name = as_file_name(image, '"image"')
    split = as_text(split, '"split"') if split is not None else ""
    if name in source.entries:
        known = source.entries[name]
        if split and split != known.split:
            raise MalformedError(f'"{name}" is in the split "{split}" here and in "{known.split}" at {known.place}')
        return
    homes = [source.images] if source.images else [source.files[0].parent / folder for folder in folders]
    source.add_photo(name, source.find(name, *homes), split or "all", place)


def _columns(header: str) -> list[str]:
    return [column.strip().strip('"').lower() for column in header.split(",")]


def _table(source: Source, folders: Sequence[str]) -> None:
    """Read ``image,caption[,split]``; other columns are ignored."""
    file = source.files[0]
    lines = [line for _, line in source.lines(file)]
    start = next((index for index, line in enumerate(lines) if line.strip()), 0)
    columns = _columns(lines[start]) if lines else []
    if "image" not in columns or "caption" not in columns:
        raise AnnotationError(f"{file}:{start + 1}: this line must be the header image,caption or image,caption,split")
    image_at, caption_at = columns.index("image"), columns.index("caption")
    split_at = columns.index("split") if "split" in columns else None
    for index, row, fields in _rows(lines, start + 1):
        place = f"{file}:{index + 1}"
        if columns == ["image", "caption"]:
            # Hand-made tables often lack quotes around captions; with two columns the meaning is clear all the same.
            fields = row.split(",", 1) if fields is None else fields
            fields = [fields[0], ",".join(fields[1:])] if len(fields) > 2 else fields
        try:
            if fields is None:
                raise MalformedError("the quotation marks do not match")
            if len(fields) != len(columns):
                raise MalformedError(f"the header has {len(columns)} columns, this row {len(fields)}")
            _add_to(source, place, fields[image_at], fields[split_at] if split_at is not None else None, folders)
            source.add_caption(fields[image_at].strip(), fields[caption_at])
        except MalformedError as error:
            source.problem(place, error)


def _rows(lines: Sequence[str], index: int) -> Iterator[tuple[int, str, list[str] | None]]:
    """Yield the rows of a CSV from a line on: the index of their first line, their text, and their fields or None.

    With plain ``csv.reader``, one unclosed quotation mark would swallow the rest of the file.
    """
    while index < len(lines):
        row, fields, used = lines[index], None, 1
        if '"' not in row:
            fields = row.split(",")
        else:
            for span in range(1, _LONGEST_ROW + 1):
                try:
                    text = [line + "\n" for line in lines[index : index + span]]
                    row, fields, used = "".join(text).rstrip("\n"), next(csv.reader(text, strict=True)), len(text)
                    break
                except csv.Error as error:
                    if "end of data" not in str(error):
                        break
        if lines[index].strip():
            yield index, row, fields
        index += used
