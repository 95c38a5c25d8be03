"""The readers' view of a data set: its files, and checked fields of its records."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioner.data.dataset import EMPTY_CAPTION, Photo, Problem
from captioner.errors import AnnotationError


class MalformedError(Exception):
    """A record that cannot be used; the message says why, the code that catches it knows the place."""


@dataclass(slots=True)
class _Entry:
    path: Path
    split: str
    place: str
    captions: list[str] = field(default_factory=list)


class Source:
    """A data set while it is being read: its files, and the photos and problems found so far.

    Attributes:
        path: the file or folder to read.
        root: the folder of the data set.
        files: the caption files of the chosen format.
        images: the folder of pictures that was given, if any.
        captionless: whether photos without captions are kept.
        name: the data set's name; the file's or folder's, unless a reader finds a better one.
    """

    def __init__(self, path: Path, images: Path | None, strict: bool, captionless: bool = False) -> None:
        self.path, self.images, self.strict, self.captionless = path, images, strict, captionless
        folder = path if path.is_dir() else path.parent
        self.root = folder.parent if folder.name == "annotations" else folder
        self.name = path.resolve().name if path.is_dir() else path.stem
        self.files: list[Path] = [] if path.is_dir() else [path]
        self.problems: list[Problem] = []
        self.entries: dict[str, _Entry] = {}
        self._heads: dict[Path, str] = {}
        self._documents: dict[Path, Any] = {}
        self._listings: dict[Path, frozenset[str]] = {}
        self._last: Path | None = None

    def problem(self, place: str, reason: object) -> None:
        """Record a malformed record; in strict mode raise it as an :class:`AnnotationError`."""
        readable = str(reason).encode("utf-8", "backslashreplace").decode()  # it may quote bytes that are not UTF-8
        if self.strict:
            raise AnnotationError(f"{place}: {readable}")
        self.problems.append(Problem(place, readable))

    def add_photo(self, image_id: str, path: Path, split: str, place: str) -> None:
        """Add a photo; a second one with the same id is malformed."""
        if image_id in self.entries:
            raise MalformedError(f'the image "{image_id}" already exists, from {self.entries[image_id].place}')
        self.entries[image_id] = _Entry(path, split, place)

    def add_caption(self, image_id: str, caption: object) -> None:
        """Add a caption to a photo that was added before; one that is empty or not text is malformed."""
        text = as_text(caption, "the caption")
        if not text:
            raise MalformedError(EMPTY_CAPTION)
        self.entries[image_id].captions.append(text)

    def photos(self) -> tuple[Photo, ...]:
        """The photos with captions, and those without if they are kept; otherwise they become problems."""
        photos = []
        for image_id, entry in self.entries.items():
            if entry.captions or self.captionless:
                photos.append(Photo(image_id, entry.path, entry.split, tuple(entry.captions)))
            else:
                self.problem(entry.place, f'the image "{image_id}" has no caption and is left out')
        return tuple(photos)

    def find(self, name: str, *folders: Path) -> Path:
        """The path of a picture: in the first of ``folders`` that holds it.

        A picture that is in none of them is expected where the last one was found. Each folder is listed once instead
        of checking every file, which would take minutes for COCO on a network drive.
        """
        inside, base = os.path.split(name)
        for folder in folders:
            if base in self._names(folder / inside if inside else folder):
                self._last = folder
                return folder / name
        return (self._last if self._last in folders else folders[0]) / name

    def holds(self, path: Path) -> bool:
        """Whether a file exists."""
        return path.name in self._names(path.parent)

    def _names(self, folder: Path) -> frozenset[str]:
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(os.listdir(folder))
            except OSError:
                self._listings[folder] = frozenset()
        return self._listings[folder]

    def head(self, file: Path | None = None) -> str:
        """The first non-blank line of a caption file, if it is within the first 64 kB; else ""."""
        file = file or self.path
        if file not in self._heads:
            with open(file, "rb") as stream:
                start = _decode(stream.read(65536), file)
            self._heads[file] = next((line.strip() for line in start.split("\n") if line.strip()), "")
        return self._heads[file]

    def lines(self, file: Path) -> Iterator[tuple[int, str]]:
        """Yield the lines of a file without their ends, numbered from 1."""
        with open(file, "rb") as stream:
            for number, raw in enumerate(stream, 1):
                line = _decode(raw, file) if number == 1 else raw.decode("utf-8", "surrogateescape")
                yield number, line.rstrip("\r\n")

    def json(self, file: Path) -> Any:
        """The contents of a JSON file, parsed once."""
        if file not in self._documents:
            try:
                self._documents[file] = json.loads(_decode(file.read_bytes(), file))
            except json.JSONDecodeError as error:
                hint = '; if it has one JSON object a line, read it with format "jsonl"' if "Extra" in error.msg else ""
                where = f"at line {error.lineno}, column {error.colno}"
                raise AnnotationError(f"{file}: not JSON, or cut short: {error.msg} {where}{hint}") from error
            except (ValueError, RecursionError) as error:
                raise AnnotationError(f"{file}: cannot be read as JSON: {error}") from error
        return self._documents[file]


def _decode(raw: bytes, file: Path) -> str:
    """Decode the start of a file; bytes that are not UTF-8 become lone surrogates, which :func:`as_text` refuses."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise AnnotationError(f"{file}: is UTF-16; save it as UTF-8")
    return raw.decode("utf-8-sig", "surrogateescape")


def as_text(value: object, what: str) -> str:
    """Return text without surrounding white space; anything else is malformed, as is text that is not UTF-8."""
    if not isinstance(value, str):
        raise MalformedError(f"{what} is {_kind(value)}, not text")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise MalformedError(f"{what} is not valid UTF-8 text")
    return value.strip()


def as_file_name(value: object, what: str) -> str:
    """Return a file name: text as by :func:`as_text` that is not empty."""
    name = as_text(value, what)
    if not name or "\0" in name:
        raise MalformedError(f"{what} is {'empty' if not name else 'not a file name'}")
    return name


def get_field(record: object, key: str) -> Any:
    """Return a field that a record must have."""
    if not isinstance(record, dict):
        raise MalformedError(f"the record is {_kind(record)}, not an object")
    if key not in record:
        raise MalformedError(f'the field "{key}" is missing')
    return record[key]


def get_id(record: object, key: str) -> str:
    """Return a field that is a whole number or text, as text."""
    value = get_field(record, key)
    if type(value) is int:  # not a bool
        return str(value)
    if not isinstance(value, str):
        raise MalformedError(f'"{key}" is {_kind(value)}, not a number or text')
    return as_file_name(value, f'"{key}"')


def get_list(record: object, key: str) -> list[Any]:
    """Return a field that is a list."""
    value = get_field(record, key)
    if not isinstance(value, list):
        raise MalformedError(f'"{key}" is {_kind(value)}, not a list')
    return value


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def read_records(source: Source, file: Path, key: str) -> list[Any]:
    """Return a list at the top level of a JSON file, which is unusable without it."""
    try:
        return get_list(source.json(file), key)
    except MalformedError as error:
        raise AnnotationError(f"{file}: {error}") from error
