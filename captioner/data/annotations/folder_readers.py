"""Readers of the formats that are folders: Hugging Face's imagefolder, LAVIS's lists, and text next to the images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from captioner.data.annotations.formats import CaptionFormat, reader
from captioner.data.annotations.json_readers import split_in_name
from captioner.data.annotations.records import TABLES, is_record_list
from captioner.data.annotations.source import Found, MalformedError, Source
from captioner.data.annotations.text_readers import read_lines, read_table
from captioner.data.dataset import split_in_path
from captioner.data.find import IMAGE_EXTENSIONS, find_images
from captioner.errors import AnnotationError

SIDECARS = (".txt", ".caption")
"""Extensions of text next to images that are recognised; others are read if they are given as the format."""

_METADATA = ("metadata.jsonl", "metadata.csv")
_LIST = re.compile(r"(?:(.+)_)?(train|val|valid|validation|dev|test)\.json")


@reader(
    "imagefolder",
    *(f"{folder}{name}" for folder in ("", "*/", "data/*/") for name in _METADATA),
    accepts=lambda source: source.path.name in _METADATA,
)
def _imagefolder(source: Source) -> None:
    """Hugging Face's imagefolder: ``metadata.jsonl`` or ``metadata.csv`` next to the images, or in each split's folder.

    ``file_name`` is relative to the folder of the metadata. A folder named after a split is that split.
    """
    root = source.path if source.path.is_dir() else source.path.parent
    for file in source.files:
        folder = file.parent.relative_to(root).as_posix()
        homes = source.existing(source.image_folder) if source.image_folder else (root,)
        read = read_table if file.suffix in TABLES else read_lines
        # The folder of a single file is the split's, if it is named so.
        around = f"{root.resolve().name}/" if folder == "." and not source.path.is_dir() else ""
        inside = "" if folder == "." else f"{folder}/"
        read(source, file, homes, inside=inside, split_of=partial(_split_of, around))


def _split_of(around: str, name: str) -> str:
    return split_in_path(around + name)


@reader("lavis", accepts=lambda source: bool(_lists(source)), sign="annotations/*_train.json or *_train.json")
def _lavis(source: Source) -> None:
    """Lists as LAVIS and BLIP read them: ``coco_karpathy_train.json`` and the like, one JSON list for each split.

    A record has ``image``, a path below the folder of images, and ``caption``, one or a list.
    """
    source.files = source.files or _lists(source)
    data_sets = {match[1] for file in source.files if (match := _LIST.fullmatch(file.name.lower()))}
    if len(data_sets) > 1:
        names = ", ".join(file.name for file in source.files)
        raise AnnotationError(f"{source.path}: several data sets in one folder ({names}); give one of the files")
    folders = [source.root, source.root / "images", source.files[0].parent]
    homes = source.existing(*([source.image_folder] if source.image_folder else folders))
    for file in source.files:
        split = split_in_name(file.stem)
        read_lines(source, file, homes, split_of=partial(_always, split))


def _always(split: str, name: str) -> str:
    return split


def _lists(source: Source) -> list[Path]:
    """Return the files in a folder, in its ``annotations/``, or the given one, as far as they are LAVIS's lists."""
    if not source.path.is_dir():
        return [source.path] if _LIST.fullmatch(source.path.name.lower()) and is_record_list(source) else []
    for folder in (source.path / "annotations", source.path):
        named = (file for file in sorted(folder.glob("*.json")) if _LIST.fullmatch(file.name.lower()))
        if files := [file for file in named if file.is_file() and source.head(file).startswith("[")]:
            return files
    return []


def sidecar_format(extension: str) -> CaptionFormat:
    """Return the format of text files with this extension next to the images."""
    read = partial(_read_sidecars, extensions=(extension.lower(),))
    return CaptionFormat("txt", (), lambda source: source.path.is_dir(), read)


@reader(
    "txt",
    accepts=lambda source: source.path.is_dir() and _has_sidecar(source),
    sign="dog.txt or dog.caption next to dog.jpg",
)
def _txt(source: Source) -> None:
    """A text file next to each image, of the same name (``dog.txt`` or ``dog.jpg.txt``), with a caption on each line.

    Trainers of image generators read these: kohya's the first line, or one of them by chance. With a requested folder
    of images, the text is in a separate folder with the same subfolders.
    """
    _read_sidecars(source, SIDECARS)


def _read_sidecars(source: Source, extensions: tuple[str, ...]) -> None:
    if not source.path.is_dir():
        raise AnnotationError(f"{source.path}: text next to images is read from their folder; give that")
    names = list(_images_and_texts(source, extensions))
    images = [name for name in names if _is_image(name)]
    unused = dict.fromkeys(name for name in names if not _is_image(name))
    texts_by_image = {image: [text for text in _texts_of(image, extensions) if text in unused] for image in images}
    counts = Counter(_extension(text) for texts in texts_by_image.values() for text in texts)
    if not counts:
        raise AnnotationError(
            f"{source.path}: no image has a text file of its name next to it, such as dog{extensions[0]} for dog.jpg"
        )
    chosen = max(counts, key=lambda extension: counts[extension])
    for extension, count in counts.items():
        if extension != chosen:
            source.notes.append(
                f"{source.path}: captions are those in {counts[chosen]:,} {chosen} files; {count:,} {extension} files "
                f'also have the names of images, which format="{extension}" in Python, or captioner data convert '
                f"--source-format {extension}, takes instead"
            )
    for image, texts in texts_by_image.items():
        path = (source.image_folder or source.path) / image
        source.add_image(image, Found(path, path), split_in_path(image), str(path))
        text = next((text for text in texts if _extension(text) == chosen), None)
        if text is not None:
            unused.pop(text, None)  # two images may share it, dog.jpg and dog.png
            _read_sidecar(source, image, source.path / text)
    lone = [text for text in unused if _extension(text) == chosen]
    if lone:
        first = source.path / lone[0]
        source.notes.append(f"{source.path}: {len(lone):,} {chosen} files have no image of their name, such as {first}")


def _images_and_texts(source: Source, extensions: tuple[str, ...]) -> Iterator[str]:
    """Yield the images, and the text files, by their names relative to their folder."""
    for file in find_images([source.path], recursive=True, archives=extensions):
        if not (source.image_folder and _is_image(file.name)):
            yield file.relative_to(source.path).as_posix()
    for file in find_images([source.image_folder], recursive=True) if source.image_folder else ():
        yield file.relative_to(source.image_folder or "").as_posix()


def _has_sidecar(source: Source) -> bool:
    seen: set[str] = set()
    for name in _images_and_texts(source, SIDECARS):
        seen.add(name)
        stem = name.rpartition(".")[0]
        if _is_image(name):
            if any(text in seen for text in _texts_of(name, SIDECARS)):
                return True
        elif stem in seen or any(stem + ending in seen for ending in IMAGE_EXTENSIONS):
            return True
    return False


def _is_image(name: str) -> bool:
    return _extension(name) in IMAGE_EXTENSIONS


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _texts_of(image: str, extensions: tuple[str, ...]) -> Iterator[str]:
    """Yield the names of the text files that an image may have, in lower and upper case."""
    for extension in extensions:
        for ending in (extension, extension.upper()):
            yield os.path.splitext(image)[0] + ending
            yield image + ending


def _read_sidecar(source: Source, image_id: str, file: Path) -> None:
    try:
        for number, line in source.lines(file):
            if line.strip():
                try:
                    source.add_caption(image_id, line)
                except MalformedError as error:
                    source.problem(f"{file}:{number}", error)
    except (AnnotationError, OSError) as error:  # not text, or unreadable; the other images are read
        reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{file}: ")
        source.problem(str(file), reason)
