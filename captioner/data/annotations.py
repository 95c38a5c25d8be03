"""Caption data sets in the formats people have them in, read into one shape.

:func:`read_captions` takes a file or a folder and recognises the format by itself:

========== ====================================================================================================
coco       ``captions_train2014.json`` and its like, or a folder with ``annotations/captions_*.json``
karpathy   ``dataset_coco.json``, ``dataset_flickr8k.json``, ``dataset_flickr30k.json``: the field's splits
flickr8k   ``Flickr8k.token.txt`` with the lists ``Flickr_8k.{train,dev,test}Images.txt`` beside it
kaggle     ``captions.txt``: a CSV ``image,caption`` with the photos in ``Images/``
jsonl      a JSON object a line: ``image``, ``caption`` (or ``captions``, a list), ``split`` if there are splits
csv        a table with the header ``image,caption`` or ``image,caption,split``
========== ====================================================================================================

A folder that holds several of them is read as the first in the order karpathy, coco, flickr8k, kaggle, jsonl, csv:
Karpathy's splits are the ones papers report on. ``format=`` forces another.

A malformed record never stops the reading: it is skipped and reported as a :class:`Problem` that says where it is.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from captioner.errors import AnnotationError
from captioner.registry import suggestion

EMPTY_CAPTION = "the caption is empty"
"""The reason of the problem that an empty caption makes."""

_SYNONYMS = {"val": "dev", "dev": "val"}
_LONGEST_ROW = 20  # lines; a quotation mark that is open for longer was never meant to be closed


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and what people said about it.

    Attributes:
        image_id: stable and unique in the data set: COCO's id, or the file name, or the path as the file writes it.
        path: where the picture should be; it may be missing.
        split: the part of the data set as the file names it: "train", "val", "test", "restval", "dev", "other", "all".
        captions: as written, but for the white space around them; at least one when read by :func:`read_captions`.
    """

    image_id: str
    path: Path
    split: str
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """A record that was skipped: its place (``file:line`` or ``file:$.annotations[3]``) and what was wrong with it."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class CaptionData:
    """A caption data set: its photos in the order of the file, and the records that could not be used."""

    name: str
    format: str
    photos: tuple[Photo, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def splits(self) -> dict[str, int]:
        """How many photos each split has, in the order of appearance."""
        return dict(Counter(photo.split for photo in self.photos))

    def split(self, name: str, *, restval: bool = False) -> CaptionData:
        """The photos of one split; the problems stay with the whole.

        Args:
            name: the split. "val" and "dev" stand for each other when only one of them exists.
            restval: count COCO's "restval" photos as "train", as most papers do.

        Raises:
            AnnotationError: there is no photo in that split.
        """
        splits = self.splits
        if name not in splits and _SYNONYMS.get(name) in splits:
            name = _SYNONYMS[name]
        wanted = {name, "restval"} if restval and name == "train" else {name}
        photos = tuple(photo for photo in self.photos if photo.split in wanted)
        if not photos:
            there = ", ".join(f"{split} ({count:,})" for split, count in splits.items()) or "none"
            raise AnnotationError(f'{self.name}: no photo is in the split "{name}"; the splits are: {there}')
        return replace(self, photos=photos, problems=())


def merge(*datas: CaptionData) -> CaptionData:
    """Join data sets into one. Image ids that occur in more than one of them get their set's name and "/" in front.

    Raises:
        AnnotationError: nothing was given.
    """
    if not datas:
        raise AnnotationError("nothing to merge: give at least one data set")
    uses = Counter(photo.image_id for data in datas for photo in data.photos)
    taken = {image_id for image_id, count in uses.items() if count == 1}
    names = [data.name for data in datas]
    photos: list[Photo] = []
    for index, data in enumerate(datas):
        earlier = names[:index].count(data.name)
        label = f"{data.name}-{earlier + 1}" if earlier else data.name
        for photo in data.photos:
            if uses[photo.image_id] > 1:
                unique = f"{label}/{photo.image_id}"
                while unique in taken:
                    unique = f"{label}/{unique}"
                taken.add(unique)
                photo = replace(photo, image_id=unique)
            photos.append(photo)
    formats = dict.fromkeys(data.format for data in datas)
    problems = tuple(problem for data in datas for problem in data.problems)
    return CaptionData("+".join(dict.fromkeys(names)), "+".join(formats), tuple(photos), problems)


def read_captions(path: str | Path, *, format: str | None = None, images: str | Path | None = None, strict: bool = False) -> CaptionData:
    """Read a caption data set.

    Args:
        path: the caption file, or the folder of the data set.
        format: a name in :data:`FORMATS`; recognised from the files when not given.
        images: the folder of the pictures, when they are not where the format has them.
        strict: raise at the first malformed record instead of skipping it.

    Raises:
        AnnotationError: the file is missing, empty, damaged or of no known format, or no photo in it has a caption;
            in strict mode also at the first malformed record.
    """
    if format is not None and format not in FORMATS:
        hint = suggestion(format, list(FORMATS))
        raise AnnotationError(f"caption format {format!r} does not exist.{hint} Known: {', '.join(FORMATS)}")
    if images is not None and not os.path.isdir(images):
        raise AnnotationError(f"{images}: no such folder of images")
    try:
        source = Source(Path(path), None if images is None else Path(images), strict)
        chosen = _recognise(source, [FORMATS[format]] if format else list(FORMATS.values()), forced=format is not None)
        chosen.read(source)
    except OSError as error:
        raise AnnotationError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error
    photos = source.photos()
    if not photos:
        count = len(source.problems)
        why = f"; {count:,} records are malformed, the first: {source.problems[0]}" if count else ""
        raise AnnotationError(f"{path}: no photo with a caption, read as {chosen.name}{why}")
    return CaptionData(source.name, chosen.name, photos, tuple(source.problems))


# ---------------------------------------------------------------------------------------------- what readers work with


class _MalformedError(Exception):
    """A record that cannot be used; the message says why, the place is known to whoever catches it."""


@dataclass(slots=True)
class _Entry:
    path: Path
    split: str
    place: str
    captions: list[str] = field(default_factory=list)


class Source:
    """A data set while it is being read: its files, and the photos and problems found so far.

    Attributes:
        path: what was asked for, a file or a folder.
        root: the folder of the data set.
        files: the caption files of the chosen format.
        images: the folder of pictures that was asked for, if any.
        name: what the data set will be called; a reader may know better than the file's name.
    """

    def __init__(self, path: Path, images: Path | None, strict: bool) -> None:
        self.path, self.images, self.strict = path, images, strict
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
        """Note a malformed record; in strict mode raise it as an :class:`AnnotationError`."""
        readable = str(reason).encode("utf-8", "backslashreplace").decode()  # it may quote bytes that are not UTF-8
        if self.strict:
            raise AnnotationError(f"{place}: {readable}")
        self.problems.append(Problem(place, readable))

    def add_photo(self, image_id: str, path: Path, split: str, place: str) -> None:
        """Begin a photo; a second one of the same id is malformed."""
        if image_id in self.entries:
            raise _MalformedError(f'the image "{image_id}" is there already, from {self.entries[image_id].place}')
        self.entries[image_id] = _Entry(path, split, place)

    def add_caption(self, image_id: str, caption: object) -> None:
        """Add a caption to a photo that was begun; one that is not text, or empty, is malformed."""
        text = _text(caption, "the caption")
        if not text:
            raise _MalformedError(EMPTY_CAPTION)
        self.entries[image_id].captions.append(text)

    def photos(self) -> tuple[Photo, ...]:
        """The photos that have captions; the others become problems."""
        photos = []
        for image_id, entry in self.entries.items():
            if entry.captions:
                photos.append(Photo(image_id, entry.path, entry.split, tuple(entry.captions)))
            else:
                self.problem(entry.place, f'the image "{image_id}" has no caption and is left out')
        return tuple(photos)

    def find(self, name: str, *folders: Path) -> Path:
        """The path of a picture: in the first of ``folders`` that holds it.

        A picture that is nowhere is expected where the last one was found. Folders are listed once instead of asking
        for every file, which would take minutes for COCO on a network drive.
        """
        inside, base = os.path.split(name)
        for folder in folders:
            if base in self._names(folder / inside if inside else folder):
                self._last = folder
                return folder / name
        return (self._last if self._last in folders else folders[0]) / name

    def holds(self, path: Path) -> bool:
        """Whether a file is there."""
        return path.name in self._names(path.parent)

    def _names(self, folder: Path) -> frozenset[str]:
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(os.listdir(folder))
            except OSError:
                self._listings[folder] = frozenset()
        return self._listings[folder]

    def head(self, file: Path | None = None) -> str:
        """The first line that is not blank of a caption file, as far as it lies in the first 64 kB; else ""."""
        file = file or self.path
        if file not in self._heads:
            with open(file, "rb") as stream:
                start = _decode(stream.read(65536), file)
            self._heads[file] = next((line.strip() for line in start.split("\n") if line.strip()), "")
        return self._heads[file]

    def lines(self, file: Path) -> Iterator[tuple[int, str]]:
        """The lines of a file with their numbers from 1, without line ends."""
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
    """The text at the start of a file; bytes that are not UTF-8 become lone surrogates, which :func:`_text` refuses."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise AnnotationError(f"{file}: is UTF-16; save it as UTF-8")
    return raw.decode("utf-8-sig", "surrogateescape")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise _MalformedError(f"{what} is {_kind(value)}, not text")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _MalformedError(f"{what} is not valid UTF-8 text")
    return value.strip()


def _file_name(value: object, what: str) -> str:
    name = _text(value, what)
    if not name or "\0" in name:
        raise _MalformedError(f"{what} is {'empty' if not name else 'not a file name'}")
    return name


def _get(record: object, key: str) -> Any:
    if not isinstance(record, dict):
        raise _MalformedError(f"the record is {_kind(record)}, not an object")
    if key not in record:
        raise _MalformedError(f'the field "{key}" is missing')
    return record[key]


def _id(record: object, key: str) -> str:
    value = _get(record, key)
    if type(value) is int:  # not a bool
        return str(value)
    if not isinstance(value, str):
        raise _MalformedError(f'"{key}" is {_kind(value)}, not a number or text')
    return _file_name(value, f'"{key}"')


def _list(record: object, key: str) -> list[Any]:
    value = _get(record, key)
    if not isinstance(value, list):
        raise _MalformedError(f'"{key}" is {_kind(value)}, not a list')
    return value


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _records(source: Source, file: Path, key: str) -> list[Any]:
    """A list at the top of a JSON file, without which the file is of no use."""
    try:
        return _list(source.json(file), key)
    except _MalformedError as error:
        raise AnnotationError(f"{file}: {error}") from error


# ------------------------------------------------------------------------------------------------------- the registry


@dataclass(frozen=True)
class Format:
    """A caption format: how a folder or a file of it is recognised, and its reader.

    Attributes:
        name: what :func:`read_captions` calls it.
        files: patterns of its caption files within a folder; the first that matches anything counts.
        accepts: whether a single file is of this format.
        read: puts photos, captions and problems into a :class:`Source`.
    """

    name: str
    files: tuple[str, ...]
    accepts: Callable[[Source], bool]
    read: Callable[[Source], None]


FORMATS: dict[str, Format] = {}
"""Every format under its name; a folder that holds several is read as the first of them."""


def reader(name: str, *files: str, accepts: Callable[[Source], bool]) -> Callable[[Callable[[Source], None]], Callable[[Source], None]]:
    """Register the decorated function as the reader of a format; see :class:`Format` for the arguments."""

    def register(read: Callable[[Source], None]) -> Callable[[Source], None]:
        FORMATS[name] = Format(name, files, accepts, read)
        return read

    return register


def _recognise(source: Source, formats: Sequence[Format], *, forced: bool) -> Format:
    """Choose the format of a source and, in a folder, its files."""
    looked_for = "; ".join(f"{known.name}: {' or '.join(known.files)}" for known in formats)
    chosen: Format | None
    if source.path.is_dir():
        for chosen in formats:
            matches = (sorted(filter(Path.is_file, source.path.glob(pattern))) for pattern in chosen.files)
            source.files = next(filter(None, matches), [])
            if source.files:
                break
        else:
            raise AnnotationError(f"{source.path}: no caption file in this folder; looked for {looked_for}")
    elif not source.path.is_file():
        raise AnnotationError(f"{source.path}: no such file or folder")
    elif forced:
        chosen = formats[0]
    else:
        chosen = next((known for known in formats if source.head() and known.accepts(source)), None)
    for file in source.files:
        if not source.head(file):
            raise AnnotationError(f"{file}: the file is empty")
    if chosen is None:
        raise AnnotationError(f"{source.path}: no known caption format; known are {looked_for}; any *.jsonl or *.csv")
    return chosen


def _is_json(source: Source) -> bool:
    suffix = source.path.suffix.lower()
    return suffix == ".json" or (suffix not in {".jsonl", ".ndjson", ".csv"} and source.head().startswith("{"))


def _has(source: Source, key: str) -> bool:
    return _is_json(source) and isinstance(source.json(source.path), dict) and key in source.json(source.path)


# -------------------------------------------------------------------------------------------------------- the readers

_COCO_FILE = re.compile(r"captions_([a-z]+)(\d{4})?")
_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|val|dev|test)(?![a-z])")
_FLICKR8K_LINE = re.compile(r"([^\t]+)#(\d+)\t(.*)", re.DOTALL)
_FLICKR_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images", "Images", "images")


@reader(
    "karpathy",
    "dataset_*.json",
    "dataset.json",
    "annotations/dataset_*.json",
    accepts=lambda source: _has(source, "images") and not _has(source, "annotations"),
)
def _karpathy(source: Source) -> None:
    """Karpathy's JSON: one list of images, each with its split and its sentences."""
    if len(source.files) > 1:
        found = ", ".join(file.name for file in source.files)
        raise AnnotationError(f"{source.path}: several data sets in one folder ({found}); give one of the files")
    (file,) = source.files
    records = _records(source, file, "images")
    title = source.json(file).get("dataset")
    source.name = title if isinstance(title, str) and title else file.stem
    homes = [source.images] if source.images else [source.root, *(source.root / name for name in _FLICKR_FOLDERS)]
    folders: dict[str, list[Path]] = {"": homes}
    for index, record in enumerate(records):
        place = f"{file}:$.images[{index}]"
        try:
            name = _file_name(_get(record, "filename"), '"filename"')
            split = _file_name(_get(record, "split"), '"split"')
            sentences = _list(record, "sentences")
            image_id = _id(record, "cocoid") if record.get("cocoid") is not None else name
            inside = _file_name(record["filepath"], '"filepath"') if record.get("filepath") else ""
            if inside not in folders:
                folders[inside] = [*(home / inside for home in homes), *homes]
            source.add_photo(image_id, source.find(name, *folders[inside]), split, place)
        except _MalformedError as error:
            source.problem(place, error)
            continue
        for number, sentence in enumerate(sentences):
            try:
                source.add_caption(image_id, _get(sentence, "raw"))
            except _MalformedError as error:
                source.problem(f"{place}.sentences[{number}]", error)


@reader(
    "coco",
    "annotations/captions_*.json",
    "captions_*.json",
    accepts=lambda source: _has(source, "annotations"),
)
def _coco(source: Source) -> None:
    """COCO's JSON: a list of images and a list of annotations; a file a split."""
    # Results of models lie beside the captions under names like captions_val2014_mine_results.json.
    files = [file for file in source.files if _COCO_FILE.fullmatch(file.stem)] or source.files
    years = {match[2] for file in files if (match := _COCO_FILE.fullmatch(file.stem)) and match[2]}
    if len(years) > 1:
        both = " and ".join(sorted(years))
        raise AnnotationError(
            f"{source.path}: captions of {both}, which are the same photos split in two ways; give one of the files, or a folder with one year"
        )
    for file in files:
        _coco_file(source, file)


def _coco_file(source: Source, file: Path) -> None:
    named = _COCO_FILE.fullmatch(file.stem)
    found = _SPLIT_IN_NAME.search(file.stem)
    split = found[1] if found else named[1] if named and source.path.is_dir() else "all"
    year = file.stem.removeprefix("captions_")  # "train2014", which is also the name of the folder of its pictures
    root, images = source.root, source.images
    homes = [images] if images else [root, root / "images", file.parent]
    folders = [*(home / year for home in homes), *homes]
    photos, annotations = _records(source, file, "images"), _records(source, file, "annotations")
    here: set[str] = set()  # a caption belongs to an image of its own file, even where ids begin anew in every file
    for index, record in enumerate(photos):
        place = f"{file}:$.images[{index}]"
        try:
            image_id = _id(record, "id")
            path = source.find(_file_name(_get(record, "file_name"), '"file_name"'), *folders)
            source.add_photo(image_id, path, split, place)
            here.add(image_id)
        except _MalformedError as error:
            source.problem(place, error)
    seen: set[str] = set()
    for index, record in enumerate(annotations):
        try:
            image_id, caption = _id(record, "image_id"), _get(record, "caption")
            if image_id not in here:
                raise _MalformedError(f'no image of this file has the id "{image_id}"')
            if "id" in record:
                number = _id(record, "id")
                if number in seen:
                    raise _MalformedError(f'an annotation with the id "{number}" is there already')
                seen.add(number)
            source.add_caption(image_id, caption)
        except _MalformedError as error:
            source.problem(f"{file}:$.annotations[{index}]", error)


@reader(
    "flickr8k",
    "Flickr8k.token.txt",
    "Flickr8k_text/Flickr8k.token.txt",
    accepts=lambda source: _FLICKR8K_LINE.fullmatch(source.head()) is not None,
)
def _flickr8k(source: Source) -> None:
    """Flickr8k as released: a line a caption, and a list of file names a split. Photos in no list are "other".

    The release has captions of ``2258277193_586949ec62.jpg.1``, a file that it does not have: one problem.
    """
    file = source.files[0]
    listed: dict[str, tuple[str, str]] = {}  # file name -> split, place
    for split in ("train", "dev", "test"):
        names = file.with_name(f"Flickr_8k.{split}Images.txt")
        for number, line in source.lines(names) if names.is_file() else ():
            place, name = f"{names}:{number}", line.strip()
            if name in listed:
                source.problem(place, f'"{name}" is there already, from {listed[name][1]}')
            elif name:
                listed[name] = split, place
    # The release comes as two archives, so that the photos may lie inside the text's folder or beside it.
    homes = [root / name for root in (file.parent, file.parent.parent) for name in _FLICKR_FOLDERS]
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
                raise _MalformedError('the line is not "photo.jpg#number<TAB>caption"')
            name = _file_name(match[1], "the file name")
            if name in absent:
                continue
            if name not in source.entries:
                path = source.find(name, *folders)
                if re.search(r"\.jpe?g\.\d+$", name, re.IGNORECASE) and not source.holds(path):
                    absent.add(name)
                    raise _MalformedError(f'"{name}" is not the name of a photo, and no such file is there')
                source.add_photo(name, path, listed.get(name, ("other", ""))[0], place)
            key = f"{name}#{match[2]}"
            if key in seen:
                raise _MalformedError(f'a caption "{key}" is there already')
            seen.add(key)
            source.add_caption(name, match[3])
        except _MalformedError as error:
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
    """Flickr8k and Flickr30k as found on Kaggle: ``captions.txt`` and ``Images/``, without splits."""
    _table(source, ["Images", "images", ""])


@reader("jsonl", "captions.jsonl", accepts=lambda source: source.path.suffix.lower() in {".jsonl", ".ndjson"})
def _jsonl(source: Source) -> None:
    """A JSON object a line."""
    for number, line in source.lines(source.files[0]):
        place = f"{source.files[0]}:{number}"
        if not line.strip():
            continue
        try:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _MalformedError(f"not JSON: {error}") from error
            image, split = _get(record, "image"), record.get("split")
            captions = _list(record, "captions") if "captions" in record else [_get(record, "caption")]
            _add_to(source, place, image, split, ["", "images", "Images"])
        except _MalformedError as error:
            source.problem(place, error)
            continue
        for caption in captions:
            try:
                source.add_caption(image.strip(), caption)
            except _MalformedError as error:
                source.problem(place, error)


@reader("csv", "captions.csv", accepts=lambda source: source.path.suffix.lower() == ".csv")
def _csv(source: Source) -> None:
    """A table with a header."""
    _table(source, ["", "images", "Images"])


def _add_to(source: Source, place: str, image: object, split: object, folders: Sequence[str]) -> None:
    """Make sure that the photo of a row is there; rows of one photo must agree on its split."""
    name = _file_name(image, '"image"')
    split = _text(split, '"split"') if split is not None else ""
    if name in source.entries:
        known = source.entries[name]
        if split and split != known.split:
            raise _MalformedError(f'"{name}" is in the split "{split}" here and in "{known.split}" at {known.place}')
        return
    homes = [source.images] if source.images else [source.files[0].parent / folder for folder in folders]
    source.add_photo(name, source.find(name, *homes), split or "all", place)


def _columns(header: str) -> list[str]:
    return [column.strip().strip('"').lower() for column in header.split(",")]


def _table(source: Source, folders: Sequence[str]) -> None:
    """Read ``image,caption[,split]``; other columns are allowed and left alone."""
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
            # Hand-made tables forget to quote captions; with two columns it is plain what was meant.
            fields = row.split(",", 1) if fields is None else fields
            fields = [fields[0], ",".join(fields[1:])] if len(fields) > 2 else fields
        try:
            if fields is None:
                raise _MalformedError("the quotation marks do not match")
            if len(fields) != len(columns):
                raise _MalformedError(f"the header has {len(columns)} columns, this row {len(fields)}")
            _add_to(source, place, fields[image_at], fields[split_at] if split_at is not None else None, folders)
            source.add_caption(fields[image_at].strip(), fields[caption_at])
        except _MalformedError as error:
            source.problem(place, error)


def _rows(lines: Sequence[str], index: int) -> Iterator[tuple[int, str, list[str] | None]]:
    """The rows of a CSV from a line on: the index of their first line, their text, and their fields or None.

    ``csv.reader`` alone would let one unclosed quotation mark swallow the rest of the file.
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
