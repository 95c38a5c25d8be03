"""Readers of the caption formats in one JSON document: Karpathy's and COCO's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from captioner.data.annotations.formats import IMAGE_FOLDERS, reader
from captioner.data.annotations.records import is_json
from captioner.data.annotations.source import (
    MalformedError,
    Source,
    as_file_name,
    as_text,
    first_letters,
    get_field,
    get_id,
    get_list,
    read_records,
)
from captioner.errors import AnnotationError

_COCO_FILE = re.compile(r"captions_([a-z]+)(\d{4})?")
_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|training|restval|val|valid|validation|dev|test)(?![a-z])")


def split_in_name(stem: str) -> str:
    """Return the split in the name of a caption file, such as "train" in ``flickr_train``; else ""."""
    found = _SPLIT_IN_NAME.search(stem.lower())
    return found[1] if found else ""


def _has(source: Source, key: str) -> bool:
    return is_json(source) and isinstance(source.json(source.path), dict) and key in source.json(source.path)


@reader(
    "karpathy",
    "dataset_*.json",
    "dataset.json",
    "annotations/dataset_*.json",
    accepts=lambda source: (
        _has(source, "images") and not _has(source, "annotations") and not _is_image_info(source.path)
    ),
)
def _karpathy(source: Source) -> None:
    """Karpathy's JSON: one list of images, each with its split and its sentences."""
    if len(source.files) > 1:
        names = ", ".join(file.name for file in source.files)
        raise AnnotationError(f"{source.path}: several data sets in one folder ({names}); give one of the files")
    (file,) = source.files
    records = read_records(source, file, "images")
    title = source.json(file).get("dataset")
    source.name = title if isinstance(title, str) and title else file.stem
    homes = (
        [source.image_folder] if source.image_folder else [source.root, *(source.root / name for name in IMAGE_FOLDERS)]
    )
    folders: dict[str, list[Path]] = {"": homes}
    for index, record in enumerate(records):
        place = f"{file}:$.images[{index}]"
        try:
            name = as_file_name(get_field(record, "filename"), '"filename"')
            split = as_text(get_field(record, "split"), '"split"')
            sentences = get_list(record, "sentences")
            image_id = get_id(record, "cocoid") if record.get("cocoid") is not None else name
            inside = as_file_name(record["filepath"], '"filepath"') if record.get("filepath") else ""
            if inside not in folders:
                folders[inside] = [*(home / inside for home in homes), *homes]
            source.add_image(image_id, source.find(name, *folders[inside]), split, place)
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
    """COCO's JSON: a list of images and a list of annotations, in one file for each split."""
    # Model results may lie next to the captions under names like captions_val2014_mine_results.json.
    files = [file for file in source.files if _COCO_FILE.fullmatch(file.stem)] or source.files
    years = {match[2] for file in files if (match := _COCO_FILE.fullmatch(file.stem)) and match[2]}
    if len(years) > 1:
        both = " and ".join(sorted(years))
        raise AnnotationError(
            f"{source.path}: captions of {both}, which are the same images split in two ways; give one of the files, "
            "or a folder with one year"
        )
    for file in files:
        _coco_file(source, file)


def _is_image_info(file: Path) -> bool:
    """Return whether a file is one of COCO's lists of images without published captions."""
    return file.name.startswith("image_info")


def _coco_file(source: Source, file: Path) -> None:
    named = _COCO_FILE.fullmatch(file.stem)
    split = split_in_name(file.stem) or (named[1] if named and source.path.is_dir() else "all")
    # "train2014" is also the name of its images' folder; test-dev's images are in the folder of the test split.
    year = file.stem.removeprefix("captions_").removeprefix("image_info_").replace("test-dev", "test")
    root, image_folder = source.root, source.image_folder
    homes = [image_folder] if image_folder else [root, root / "images", file.parent]
    folders = source.existing(*(home / year for home in homes), *homes)
    images = read_records(source, file, "images")
    annotations = (
        []
        if _is_image_info(file) and "annotations" not in source.json(file)
        else read_records(source, file, "annotations")
    )
    here: set[str] = set()  # a caption belongs to an image of the same file, as ids may start over in every file
    shared = _shared(images, "file_name")
    for index, record in enumerate(images):
        place = f"{file}:$.images[{index}]"
        try:
            image_id = get_id(record, "id")
            name = as_file_name(get_field(record, "file_name"), '"file_name"')
            if image_id in shared:
                raise MalformedError(f'the id "{image_id}" belongs to several images, such as {shared[image_id]}')
            source.add_image(image_id, source.find(name, *folders), split, place)
            here.add(image_id)
        except MalformedError as error:
            source.problem(place, error)
    # Some tools write 0 as the id of every annotation. With unique ids, a second one is a repeated record.
    unique = not _shared(annotations, "image_id", "caption")
    seen: set[str] = set()
    for index, record in enumerate(annotations):
        try:
            image_id, caption = get_id(record, "image_id"), get_field(record, "caption")
            if image_id in shared:
                raise MalformedError(f'the id "{image_id}" belongs to several images, such as {shared[image_id]}')
            if image_id not in here:
                raise MalformedError(f'no image of this file has the id "{image_id}"')
            number = _id_of(record) if unique else None
            if number in seen:
                raise MalformedError(f'an annotation with the id "{number}" already exists')
            if number is not None:
                seen.add(number)
            source.add_caption(image_id, caption)
        except MalformedError as error:
            source.problem(f"{file}:$.annotations[{index}]", error)


def _id_of(record: object) -> str | None:
    try:
        return get_id(record, "id")
    except MalformedError:
        return None


def _shared(records: Sequence[object], *fields: str) -> dict[str, str]:
    """Return the ids that records with different fields share, each with the first field of two of them."""
    plain = [number for record in records if isinstance(record, dict) and type(number := record.get("id")) is int]
    if len(set(plain)) == len(records):  # the usual case, at a tenth of the time
        return {}
    first: dict[str, list[object]] = {}
    shared: dict[str, str] = {}
    for record in records:
        if isinstance(record, dict) and (number := _id_of(record)) is not None:
            values = [record.get(field) for field in fields]
            if number not in shared and (known := first.setdefault(number, values)) != values:
                shared[number] = f"{first_letters(str(known[0]))} and {first_letters(str(values[0]))}"
    return shared
