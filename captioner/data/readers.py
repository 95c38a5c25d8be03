"""The readers of the caption formats, one function a format, and the registry that knows them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioner.data.source import MalformedError, Source, as_file_name, as_text, get_field, get_id, get_list, read_records
from captioner.errors import AnnotationError

_COCO_FILE = re.compile(r"captions_([a-z]+)(\d{4})?")
_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|val|dev|test)(?![a-z])")
_FLICKR8K_LINE = re.compile(r"([^\t]+)#(\d+)\t(.*)", re.DOTALL)
_FLICKR_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images", "Images", "images")
_LONGEST_ROW = 20  # lines; a quotation mark that is open for longer was never meant to be closed


@dataclass(frozen=True)
class Format:
    """A caption format: how a folder or a file of it is recognised, and its reader.

    Attributes:
        name: what :func:`~captioner.data.annotations.read_captions` calls it.
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


def _is_json(source: Source) -> bool:
    suffix = source.path.suffix.lower()
    return suffix == ".json" or (suffix not in {".jsonl", ".ndjson", ".csv"} and source.head().startswith("{"))


def _has(source: Source, key: str) -> bool:
    return _is_json(source) and isinstance(source.json(source.path), dict) and key in source.json(source.path)


@reader(
    "karpathy",
    "dataset_*.json",
    "dataset.json",
    "annotations/dataset_*.json",
    accepts=lambda source: _has(source, "images") and not _has(source, "annotations") and not _is_image_info(source.path),
)
def _karpathy(source: Source) -> None:
    """Karpathy's JSON: one list of images, each with its split and its sentences."""
    if len(source.files) > 1:
        found = ", ".join(file.name for file in source.files)
        raise AnnotationError(f"{source.path}: several data sets in one folder ({found}); give one of the files")
    (file,) = source.files
    records = read_records(source, file, "images")
    title = source.json(file).get("dataset")
    source.name = title if isinstance(title, str) and title else file.stem
    homes = [source.images] if source.images else [source.root, *(source.root / name for name in _FLICKR_FOLDERS)]
    folders: dict[str, list[Path]] = {"": homes}
    for index, record in enumerate(records):
        place = f"{file}:$.images[{index}]"
        try:
            name = as_file_name(get_field(record, "filename"), '"filename"')
            split = as_file_name(get_field(record, "split"), '"split"')
            sentences = get_list(record, "sentences")
            image_id = get_id(record, "cocoid") if record.get("cocoid") is not None else name
            inside = as_file_name(record["filepath"], '"filepath"') if record.get("filepath") else ""
            if inside not in folders:
                folders[inside] = [*(home / inside for home in homes), *homes]
            source.add_photo(image_id, source.find(name, *folders[inside]), split, place)
        except MalformedError as error:
            source.problem(place, error)
            continue
        for number, sentence in enumerate(sentences):
            try:
                source.add_caption(image_id, get_field(sentence, "raw"))
            except MalformedError as error:
                source.problem(f"{place}.sentences[{number}]", error)


@reader(
    "coco",
    "annotations/captions_*.json",
    "captions_*.json",
    accepts=lambda source: _has(source, "annotations") or (_is_image_info(source.path) and _has(source, "images")),
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


def _is_image_info(file: Path) -> bool:
    """Tell COCO's lists of photos whose captions are kept back from its other files."""
    return file.name.startswith("image_info")


def _coco_file(source: Source, file: Path) -> None:
    named = _COCO_FILE.fullmatch(file.stem)
    found = _SPLIT_IN_NAME.search(file.stem)
    split = found[1] if found else named[1] if named and source.path.is_dir() else "all"
    # "train2014" is also the name of the folder of its pictures; test-dev's are in that of the test split.
    year = file.stem.removeprefix("captions_").removeprefix("image_info_").replace("test-dev", "test")
    root, images = source.root, source.images
    homes = [images] if images else [root, root / "images", file.parent]
    folders = [*(home / year for home in homes), *homes]
    photos = read_records(source, file, "images")
    annotations = [] if _is_image_info(file) and "annotations" not in source.json(file) else read_records(source, file, "annotations")
    here: set[str] = set()  # a caption belongs to an image of its own file, even where ids begin anew in every file
    for index, record in enumerate(photos):
        place = f"{file}:$.images[{index}]"
        try:
            image_id = get_id(record, "id")
            path = source.find(as_file_name(get_field(record, "file_name"), '"file_name"'), *folders)
            source.add_photo(image_id, path, split, place)
            here.add(image_id)
        except MalformedError as error:
            source.problem(place, error)
    seen: set[str] = set()
    for index, record in enumerate(annotations):
        try:
            image_id, caption = get_id(record, "image_id"), get_field(record, "caption")
            if image_id not in here:
                raise MalformedError(f'no image of this file has the id "{image_id}"')
            if "id" in record:
                number = get_id(record, "id")
                if number in seen:
                    raise MalformedError(f'an annotation with the id "{number}" is there already')
                seen.add(number)
            source.add_caption(image_id, caption)
        except MalformedError as error:
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
                raise MalformedError('the line is not "photo.jpg#number<TAB>caption"')
            name = as_file_name(match[1], "the file name")
            if name in absent:
                continue
            if name not in source.entries:
                path = source.find(name, *folders)
                if re.search(r"\.jpe?g\.\d+$", name, re.IGNORECASE) and not source.holds(path):
                    absent.add(name)
                    raise MalformedError(f'"{name}" is not the name of a photo, and no such file is there')
                source.add_photo(name, path, listed.get(name, ("other", ""))[0], place)
            key = f"{name}#{match[2]}"
            if key in seen:
                raise MalformedError(f'a caption "{key}" is there already')
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
    """Make sure that the photo of a row is there; rows of one photo must agree on its split."""
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
                raise MalformedError("the quotation marks do not match")
            if len(fields) != len(columns):
                raise MalformedError(f"the header has {len(columns)} columns, this row {len(fields)}")
            _add_to(source, place, fields[image_at], fields[split_at] if split_at is not None else None, folders)
            source.add_caption(fields[image_at].strip(), fields[caption_at])
        except MalformedError as error:
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
