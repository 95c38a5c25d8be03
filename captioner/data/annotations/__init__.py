"""Readers of the common formats of caption data sets.

:func:`read_captions` reads a file or a folder and recognises its format:

============ ==================================================================================================
coco         ``captions_train2014.json`` and the like, or a folder with ``annotations/captions_*.json``;
             ``image_info_test2014.json`` and the like, if images without captions are kept
karpathy     ``dataset_coco.json``, ``dataset_flickr8k.json``, ``dataset_flickr30k.json``: the field's splits
flickr8k     ``Flickr8k.token.txt`` with the lists ``Flickr_8k.{train,dev,test}Images.txt`` next to it
kaggle       ``captions.txt``: a CSV ``image,caption`` with the images in ``Images/``
jsonl        one JSON object on each line, or a JSON list of them: ``image``, ``caption`` (or ``captions``, a list),
             ``split`` if there are any
csv          a table with the header ``image,caption`` or ``image,caption,split``, with commas, semicolons, tabs or
             bars, such as Flickr30k's ``results.csv``; without a header if one column has the names of image files
imagefolder  Hugging Face's ``metadata.jsonl`` or ``metadata.csv`` next to the images, or in ``train/``,
             ``validation/`` and ``test/``: ``file_name``, and ``text`` or another name of captions
parquet      Hugging Face's ``data/train-00000-of-00001.parquet``: images with their bytes, and columns of captions
webdataset   tar files ``train-000000.tar``: for each image a ``.txt`` or ``.json`` of the same name
lavis        ``coco_karpathy_train.json`` and the like: a JSON list for each split, as LAVIS and BLIP read them
txt          ``dog.txt`` or ``dog.caption`` next to ``dog.jpg``, a caption on each line, in folders of any depth; the
             format ``.EXTENSION`` reads other extensions
============ ==================================================================================================

Columns and fields may have other usual names, such as ``file_name`` and ``text``, and a table may have several columns
of captions (``caption1``, ``caption2``). Text is UTF-8, UTF-16 with a mark, or Windows-1252, which is assumed with a
note.

``hf://datasets/USER/NAME`` is a data set on the Hugging Face hub, which is downloaded first; the address may end in
a folder or a file of it.

A folder with several formats is read as Karpathy's or COCO's, if it has these; the choice is noted. ``format=`` selects
another. A malformed record is skipped and reported as a :class:`SkippedRecord`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

# Imported to register the formats.
from captioner.data.annotations import folder_readers, json_readers, packed_readers, text_readers  # noqa: F401
from captioner.data.annotations.folder_readers import sidecar_format
from captioner.data.annotations.formats import FORMATS, CaptionFormat, reader
from captioner.data.annotations.source import MalformedError, Source, first_letters
from captioner.data.dataset import CaptionData, CaptionedImage, SkippedRecord, merge
from captioner.data.hub import is_on_hub, local_copy
from captioner.errors import AnnotationError
from captioner.registry import suggestion

__all__ = [
    "FORMATS",
    "CaptionData",
    "CaptionedImage",
    "MalformedError",
    "SkippedRecord",
    "Source",
    "merge",
    "read_captions",
    "reader",
]

_ORDER = (  # papers report on Karpathy's splits; text next to images is looked for last, in the whole folder
    *("karpathy", "coco", "imagefolder", "lavis", "flickr8k", "kaggle", "jsonl", "csv", "parquet", "webdataset", "txt"),
)
_EXTENSION = re.compile(r"\.\w+")


def read_captions(
    path: str | Path,
    *,
    format: str | None = None,
    images: str | Path | None = None,
    strict: bool = False,
    captionless: bool = False,
) -> CaptionData:
    """Read a caption data set.

    Args:
        path: the caption file, the folder of the data set, or its address on the hub.
        format: a name in :data:`FORMATS`, or the extension of text next to the images; recognised from the files if not
            given.
        images: the folder of the images; by default, the usual one of the format.
        strict: raise at the first malformed record instead of skipping it.
        captionless: keep images without captions, such as those of a test split with unpublished captions;
            otherwise they are reported as problems.

    Raises:
        AnnotationError: the file is missing, empty, damaged or of no known format, no image in it has a caption, or, in
            strict mode, a record is malformed.
        BulkError: Parquet needs pyarrow, which is not installed.
    """
    if format is not None and format not in FORMATS and not _EXTENSION.fullmatch(format):
        known = [each.name for each in FORMATS.entries()]
        hint = suggestion(format, known)
        raise AnnotationError(
            f"caption format {format!r} does not exist.{hint} Known: {', '.join(known)}; or the extension of text "
            "next to the images, such as .txt; import a reader of your own first: captioner --import FILE.py"
        )
    if images is not None and not os.path.isdir(images):
        raise AnnotationError(f"{images}: no such folder of images")
    try:
        source = Source(local_copy(path), None if images is None else Path(images), strict, captionless)
        if is_on_hub(path) and source.path.is_dir():
            source.name = Path(path).name.partition("@")[0]  # that of the copy is a hash
        chosen = _recognise(source, format)
        chosen.read(source)
    except OSError as error:
        raise AnnotationError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error
    found = source.captioned_images()
    if not found:
        count = len(source.problems)
        why = f"; {count:,} records are malformed, the first: {source.problems[0]}" if count else ""
        raise AnnotationError(f"{path}: no image{'' if captionless else ' with a caption'}, read as {chosen.name}{why}")
    return CaptionData(source.name, chosen.name, found, tuple(source.problems), tuple(source.notes))


def _recognise(source: Source, format: str | None) -> CaptionFormat:
    """Choose the format of a source and, in a folder, its files."""
    if format is not None:
        formats = [sidecar_format(format) if format.startswith(".") else FORMATS[format]]
    else:  # formats from outside come first, since csv and jsonl accept almost any file
        formats = sorted(FORMATS.entries(), key=lambda known: _ORDER.index(known.name) if known.name in _ORDER else -1)
    looked_for = "; ".join(f"{known.name}: {' or '.join(known.files) or known.sign}" for known in formats)
    if source.path.is_dir():
        chosen = _in_folder(source, formats)
        if chosen is None:
            raise AnnotationError(
                f"{source.path}: no caption file in this folder; if it has another name, give the file; looked for "
                f"{looked_for}"
            )
    elif not source.path.is_file():
        raise AnnotationError(f"{source.path}: no such file or folder")
    elif not source.path.stat().st_size:
        raise AnnotationError(f"{source.path}: the file is empty")
    elif format is not None:
        (chosen,) = formats
    else:
        binary_first = sorted(formats, key=lambda known: not known.binary)
        chosen = next((known for known in binary_first if known.accepts(source)), None)
    for file in source.files if chosen is None or not chosen.binary else ():
        if not source.head(file):
            raise AnnotationError(f"{file}: the file is empty")
    if chosen is None:
        raise AnnotationError(
            f"{source.path}: no known caption format; it begins with {first_letters(source.head())}; known are "
            f"{looked_for}; any *.jsonl, or a table with columns named image and caption"
        )
    return chosen


def _in_folder(source: Source, formats: Sequence[CaptionFormat]) -> CaptionFormat | None:
    """Choose the format of a folder and its files, and note other caption files in it."""
    for chosen in formats:
        matches = (sorted(filter(Path.is_file, source.path.glob(pattern))) for pattern in chosen.files)
        source.files = next(filter(None, matches), [])
        if source.files or (not chosen.files and (len(formats) == 1 or chosen.accepts(source))):
            break
    else:
        return None
    for known in formats:
        # Patterns with a folder of any name would list the images in all of them.
        patterns = (pattern for pattern in known.files if "*/" not in pattern)
        others = (file for pattern in patterns for file in source.path.glob(pattern) if file not in source.files)
        if (other := next(others, None)) is not None:
            source.notes.append(
                f"{source.path}: read as {chosen.name}; it also has {other.name} ({known.name}); to read that, give "
                "the file"
            )
    return chosen
