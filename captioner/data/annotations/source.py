"""A data set during reading: its files, its images, and checked fields of its records."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple
from unicodedata import normalize

from captioner.data.annotations.encoding import MAX_FILE_BYTES, check_text, decode
from captioner.data.dataset import EMPTY_CAPTION, CaptionedImage, SkippedRecord, split_name
from captioner.errors import AnnotationError
from captioner.files import parse_json

MAX_VALUE_LETTERS = 20_000
"""Limit of the letters of a caption; descriptions of a whole page have 5,000."""

_SURROGATE = re.compile("[\ud800-\udfff]")  # half a surrogate pair, or a byte that could not be decoded
_WHOLE_NUMBER = re.compile(r"-?\d+\.0+")


class MalformedError(Exception):
    """A malformed record; the message is the reason."""


class Found(NamedTuple):
    """The file of an image.

    Attributes:
        path: the file, which may be missing.
        named: the path by its full name; it differs if the file was found by a part of the name.
    """

    path: Path
    named: Path


@dataclass(slots=True)
class _Entry:
    found: Found
    split: str
    place: str
    captions: list[str] = field(default_factory=list)


class Source:
    """A data set during reading: its files, and the images and problems so far.

    Attributes:
        path: the file or folder to read.
        root: the folder of the data set.
        files: the caption files of the chosen format.
        images: the requested folder of images, if any.
        captionless: whether images without captions are kept.
        name: that of the file or folder, unless a reader finds a title.
        json: returns the contents of a JSON file, parsed once.
    """

    def __init__(self, path: Path, image_folder: Path | None, strict: bool, captionless: bool = False) -> None:
        self.path, self.image_folder, self.strict, self.captionless = path, image_folder, strict, captionless
        folder = path if path.is_dir() else path.parent
        self.root = folder.parent if folder.name == "annotations" else folder
        self.name = path.resolve().name if path.is_dir() else path.stem
        self.files: list[Path] = [] if path.is_dir() else [path]
        self.problems: list[SkippedRecord] = []
        self.notes: list[str] = []
        self.entries: dict[str, _Entry] = {}
        self.json = cache(self._json)
        self._names, self._start = cache(_names_in), cache(_start_of)
        self._last: Path | None = None

    def problem(self, place: str, reason: object) -> None:
        """Add a malformed record; in strict mode raise an :class:`AnnotationError`."""
        readable = str(reason).encode("utf-8", "backslashreplace").decode()  # it may quote bytes that are not UTF-8
        if self.strict:
            raise AnnotationError(f"{place}: {readable}")
        self.problems.append(SkippedRecord(place, readable))

    def add_image(self, image_id: str, found: Found, split: str, place: str) -> None:
        """Add an image; a second one with the same id is malformed."""
        if image_id in self.entries:
            raise MalformedError(f'the image "{image_id}" already exists, from {self.entries[image_id].place}')
        self.entries[image_id] = _Entry(found, split_name(split), place)

    def add_caption(self, image_id: str, caption: object) -> None:
        """Add a caption of an added image; an empty one, or one that is not text, is malformed."""
        text = as_text(caption, "the caption")
        if not text:
            raise MalformedError(EMPTY_CAPTION)
        self.entries[image_id].captions.append(text)

    def captioned_images(self) -> tuple[CaptionedImage, ...]:
        """Return the images with captions; those without are kept if requested, else added to the problems."""
        images = []
        claims = Counter(entry.found.path for entry in self.entries.values())
        elsewhere = []
        for image_id, entry in self.entries.items():
            path, named = entry.found
            if path != named:
                if claims[path] > 1:  # a part of the name does not distinguish the images
                    path = named
                else:
                    elsewhere.append(entry.found)
            if entry.captions or self.captionless:
                images.append(CaptionedImage(image_id, path, entry.split, tuple(entry.captions)))
            else:
                self.problem(entry.place, f'the image "{image_id}" has no caption and is left out')
        if elsewhere:
            self.notes.append(
                f"{len(elsewhere):,} images are missing at the paths in the caption file and were found by a part of "
                f"their names or another spelling, the first: {elsewhere[0].named} as {elsewhere[0].path}"
            )
        return tuple(images)

    def find(self, name: str, *folders: Path) -> Found:
        """Return the file of an image, in the first of ``folders`` that contains it.

        Otherwise the end of its name is searched, without the folders of another machine, then without regard to case
        and the form of Unicode, then its last part anywhere in the requested folder of images. If all fail, the path is
        that in the folder of the previous image. Each folder is listed once: checking every file would take minutes for
        COCO on a network drive.
        """
        if (path := self._in(name, folders)) is not None:
            return Found(path, path)
        named = (self._last if self._last in folders else folders[0]) / name
        parts = PureWindowsPath(name).parts if "\\" in name else Path(name).parts
        for exactly in (True, False):
            for start in range(len(parts) == 1 and exactly, len(parts)):
                if (path := self._in("/".join(parts[start:]), folders, exactly=exactly)) is not None:
                    return Found(path, named)
        below = self._below.get(_plain(parts[-1]), []) if self.image_folder and parts else []
        return Found(below[0] if len(below) == 1 else named, named)

    def existing(self, *folders: Path) -> tuple[Path, ...]:
        """Return the folders that are not empty; the first if all are."""
        return tuple(filter(self._names, folders)) or folders[:1]

    def _in(self, name: str, folders: tuple[Path, ...], *, exactly: bool = True) -> Path | None:
        """Return the first file with this relative path; else one that differs only in case or the form of Unicode."""
        for folder in folders:
            path = folder / name if exactly else self._spelled(folder, name)
            if path is not None and self.holds(path):
                self._last = folder
                return path
        return None

    def _spelled(self, folder: Path, name: str) -> Path | None:
        """Return the file at a relative path; a name may be spelled differently there if only one matches."""
        for part in Path(name).parts:
            there = self._names(folder).get(_plain(part), [])
            if part not in ("..", os.sep) and part not in there:
                if len(there) != 1:
                    return None
                (part,) = there
            folder = folder / part
        return folder

    def holds(self, path: Path) -> bool:
        """Return whether a file exists."""
        return path.name in self._names(path.parent).get(_plain(path.name), [])

    @cached_property
    def _below(self) -> dict[str, list[Path]]:
        """All files in the requested folder of images by their plain names."""
        below: dict[str, list[Path]] = {}
        for folder, _, names in os.walk(self.image_folder or ""):
            for name in names:
                below.setdefault(_plain(name), []).append(Path(folder, name))
        return below

    def start(self, file: Path | None = None) -> list[str]:
        """Return the lines of the first 64 kB of a caption file; the last may be cut.

        Raises:
            AnnotationError: it is not a text file.
        """
        return self._start(file or self.path)

    def head(self, file: Path | None = None) -> str:
        """Return the first non-blank line in the first 64 kB of a caption file; else ""."""
        return next((line.strip() for line in self.start(file) if line.strip()), "")

    def text(self, file: Path) -> str:
        """Return the text of a caption file."""
        _check_regular(file)
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise AnnotationError(
                f"{file}: has {size:,} bytes, more than the {MAX_FILE_BYTES:,} that are read; split it"
            )
        raw = file.read_bytes()
        check_text(raw[:65536], file)
        return decode(raw, file, note=self.notes.append)

    def lines(self, file: Path) -> Iterator[tuple[int, str]]:
        """Yield the lines of a file without line ends, numbered from 1."""
        yield from enumerate(_lines(self.text(file)), 1)

    def _json(self, file: Path) -> Any:
        advice = "copy it again, it may be cut short; if each line is a JSON object, name it .jsonl"
        return parse_json(self.text(file), object, where=file, error=AnnotationError, advice=advice)


def _plain(name: str) -> str:
    """Return a name without regard to case and to the form of Unicode, which archives from macOS change."""
    return name.casefold() if name.isascii() else normalize("NFC", normalize("NFC", name).casefold())


def _names_in(folder: Path) -> dict[str, list[str]]:
    """Return the names in a folder by their plain form."""
    names: dict[str, list[str]] = {}
    with suppress(OSError):
        for name in os.listdir(folder):
            names.setdefault(_plain(name), []).append(name)
    return names


def _check_regular(file: Path) -> None:
    """Check that a file is not a pipe or a device, which would block when it is opened."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise AnnotationError(f"{file}: is not a file, and stands where a text belongs; move it away")


def _start_of(file: Path) -> list[str]:
    _check_regular(file)
    with open(file, "rb") as stream:
        raw = stream.read(65536)
    check_text(raw, file)
    return _lines(decode(raw))


def _lines(text: str) -> list[str]:
    """Split text at line feeds, with a carriage return before them or not; without any, at carriage returns."""
    lines = [line.removesuffix("\r") for line in text.split("\n")] if "\n" in text else text.split("\r")
    return lines[:-1] if lines[-1] == "" else lines


def first_letters(text: str, most: int = 60) -> str:
    """Return the beginning of a text in quotation marks, for messages."""
    return repr(text if len(text) <= most else text[:most] + "...")


def as_text(value: object, what: str) -> str:
    """Return text without surrounding white space; other values, invalid UTF-8 and long texts are malformed."""
    if not isinstance(value, str):
        raise MalformedError(f"{what} is {_kind(value)}, not text")
    if not value.isascii() and _SURROGATE.search(value):
        raise MalformedError(f"{what} is not valid UTF-8 text")
    if len(value) > MAX_VALUE_LETTERS:
        raise MalformedError(f"{what} has {len(value):,} letters, more than the {MAX_VALUE_LETTERS:,} that are read")
    return value.strip()


def as_file_name(value: object, what: str) -> str:
    """Return a file name: text by :func:`as_text` that is not empty."""
    name = as_text(value, what)
    if not name or "\0" in name:
        raise MalformedError(f"{what} is {'empty' if not name else 'not a file name'}")
    return name


def get_field(record: object, key: str) -> Any:
    """Return a required field of a record."""
    if not isinstance(record, dict):
        raise MalformedError(f"the record is {_kind(record)}, not an object")
    if key not in record:
        raise MalformedError(f'the field "{key}" is missing')
    return record[key]


def get_id(record: object, key: str) -> str:
    """Return a field that is a whole number or text, as text; 17, 17.0, "17" and "17.0" are one id."""
    return as_id(get_field(record, key), f'"{key}"')


def as_id(value: object, what: str) -> str:
    """Return a whole number or text as :func:`get_id` does."""
    if type(value) is int:  # not a bool
        return str(value)
    if type(value) is float and value.is_integer():  # pandas writes them in a column with missing values
        return str(int(value))
    if not isinstance(value, str):
        kind = str(value) if isinstance(value, float) else _kind(value)
        raise MalformedError(f"{what} is {kind}, not a whole number or text")
    name = as_file_name(value, what)
    return name.partition(".")[0] if _WHOLE_NUMBER.fullmatch(name) else name


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
    """Return a required list at the top level of a JSON file."""
    try:
        return get_list(source.json(file), key)
    except MalformedError as error:
        raise AnnotationError(f"{file}: {error}") from error
