"""Readers of the formats with images inside files: Hugging Face's Parquet, and WebDataset's tar files."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, NamedTuple

from captioner.data.annotations.encoding import check_text, decode
from captioner.data.annotations.formats import reader
from captioner.data.annotations.json_readers import split_in_name
from captioner.data.annotations.records import layout_of, name_column
from captioner.data.annotations.source import Found, MalformedError, Source, as_id, as_text
from captioner.data.annotations.text_readers import add_captions
from captioner.data.dataset import split_in_path, split_name
from captioner.data.find import IMAGE_EXTENSIONS, is_hidden
from captioner.data.packed import image_column, packed_name, tar_members
from captioner.data.rows import require_parquet
from captioner.errors import AnnotationError, first_line

_ROWS = 1000  # rows of captions that are decoded at once
_MAX_TEXT = 1 << 20  # bytes of the text of one sample
_TEXTS = (".json", ".txt", ".caption")


class _Row(NamedTuple):
    """A row of a Parquet file.

    Attributes:
        file: the file.
        number: the number of the row, from 0.
        name: the id or the name of its image, if any.
        split: its split, if any.
        captions: its fields of captions.
        packed: whether the image is inside the file.
    """

    file: Path
    number: int
    name: object
    split: str
    captions: list[Any]
    packed: bool

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}"


@reader(
    "parquet",
    *("*.parquet", "data/*.parquet", "*/*.parquet", "data/*/*.parquet"),
    accepts=lambda source: _begins(source.path, b"PAR1"),
    binary=True,
)
def _parquet(source: Source) -> None:
    """Parquet as Hugging Face's data sets have it: a column of images, their bytes inside, and columns of captions.

    The split is that in the file's name, such as ``train-00000-of-00002.parquet``, or in a column ``split``. Images of
    several rows are one image if a column such as ``file_name`` or ``image_id`` names them so. Files of images that are
    named in a column of text are read too.
    """
    require_parquet(str(source.path))
    folders = sorted({file.parent.name for file in source.files})
    if len(folders) > 1 and not all(split_in_path(f"{folder}/") for folder in folders):
        raise AnnotationError(
            f"{source.path}: Parquet files of several data sets, in {', '.join(folders)}; give one of the folders"
        )
    rows = [row for file in source.files for row in _rows_of(source, file)]
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(_name(row), set()).add(split_name(row.split))
    for row in rows:
        name = _name(row)
        # Numbers may start over in every split.
        image_id = f"{split_name(row.split)}/{name}" if len(splits[name]) > 1 else name
        try:
            if not row.packed:
                as_id(row.name, "the name of the image")
            if image_id not in source.entries:
                source.add_image(image_id, _image_of(source, row), row.split, row.place)
        except MalformedError as error:
            source.problem(row.place, error)
            continue
        add_captions(source, row.place, image_id, row.captions)


def _name(row: _Row) -> str:
    """Return the name of a row's image, by default that of its file and its number."""
    try:
        return as_id(row.name, "the name of the image")
    except MalformedError:
        return f"{row.file.name}:{row.number}"


def _image_of(source: Source, row: _Row) -> Found:
    if row.packed:
        inside = packed_name(row.file, row.number)
        return Found(inside, inside)
    homes = (source.image_folder,) if source.image_folder else (row.file.parent, source.root)
    return source.find(_name(row), *source.existing(*homes))


def _rows_of(source: Source, file: Path) -> Iterator[_Row]:
    """Yield the rows of a Parquet file, without reading its images."""
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(file)
        names: list[str] = table.schema_arrow.names
        kinds = {field.name: str(field.type) for field in table.schema_arrow}
        packed = image_column(table.schema_arrow)
        # The column of bytes is the image under any name; only that of the captions needs a usual one.
        layout = layout_of(tuple("image" if packed and name == packed[0] else name for name in names))
        if layout is None:
            raise AnnotationError(
                f"{file}: its columns are {', '.join(names)}; rename that of the captions to caption or text"
                + ("" if packed else ", and that of the images to image")
            )
        image = packed[0] if packed else names[layout.image]
        plain = {name for name, kind in kinds.items() if kind in ("string", "large_string", "string_view")}
        name = name_column(names, (plain | {name for name in names if "int" in kinds[name]}) - {image})
        path = f"{image}.path" if packed and len(packed) > 1 and "path: string" in kinds[image] else None
        captions = [names[index] for index in layout.captions]
        split = None if layout.split is None else names[layout.split]
        wanted = [*captions, *filter(None, (split, name, path)), *(() if packed else (image,))]
        split_of_file = split_in_name(file.stem) or split_in_path(f"{file.parent.name}/")
        rows: list[_Row] = []
        for batch in table.iter_batches(batch_size=_ROWS, columns=wanted):
            for record in batch.to_pylist():
                given = record[image] if not packed else record[name] if name else None
                if path and given is None:
                    given = PureWindowsPath((record[image] or {}).get("path") or "").name
                part = (record[split] if split else None) or split_of_file
                texts = [record[each] for each in captions]
                rows.append(_Row(file, len(rows), given, str(part), texts, packed is not None))
    except (OSError, ValueError) as error:  # ValueError: pyarrow's own
        raise AnnotationError(
            f"{file}: is not a Parquet file, or damaged ({first_line(error)}); copy it again"
        ) from error
    if packed and not name:  # paths are names only if they distinguish the images
        counts = Counter(row.name for row in rows)
        rows = [row if row.name and counts[row.name] == 1 else row._replace(name=None) for row in rows]
    yield from rows


@reader(
    "webdataset",
    *("*.tar", "*/*.tar"),
    accepts=lambda source: source.path.suffix.lower() == ".tar" or _begins(source.path, b"ustar", 257),
    binary=True,
)
def _webdataset(source: Source) -> None:
    """WebDataset: tar files with an image, and its captions in a text or JSON file of the same name.

    The split is that in the tar file's name, such as ``train-000000.tar``. A ``.txt`` has a caption on each line; a
    ``.json`` may have a list ``captions``, which is preferred, ``image``, the image's name, and ``split``.
    """
    for file in source.files:
        if file.suffix.lower() != ".tar":
            raise AnnotationError(f"{file}: is a tar file; rename it to end in .tar")
        try:
            with open(file, "rb") as stream:
                split = split_in_name(file.stem) or split_in_path(f"{file.parent.name}/")
                _Shard(file, stream, tar_members(file), split).read(source)
        except (OSError, tarfile.TarError) as error:
            advice = "unpack it with gunzip, or the like, or copy it again"
            raise AnnotationError(f"{file}: not a tar file, or damaged ({first_line(error)}); {advice}") from error


@dataclass(frozen=True)
class _Shard:
    """One tar file of WebDataset.

    Attributes:
        file: its path.
        stream: the open file.
        members: the start and size of every member.
        split: the split of its images without one.
    """

    file: Path
    stream: BinaryIO
    members: Mapping[str, tuple[int, int]]
    split: str

    def read(self, source: Source) -> None:
        """Add the images and captions of all samples: members with the same name up to its first dot."""
        samples: dict[str, dict[str, str]] = {}
        for name in filterfalse(is_hidden, self.members):
            base = PurePosixPath(name).name
            extension = base[base.find(".") :].lower() if "." in base else ""
            samples.setdefault(name[: len(name) - len(extension)], {})[extension] = name
        for parts in samples.values():
            image = next((name for extension, name in parts.items() if extension in IMAGE_EXTENSIONS), None)
            place = f"{self.file}:{image or next(iter(parts.values()))}"
            try:
                if image is not None:
                    self._add(source, place, image, parts)
                elif any(extension in parts for extension in _TEXTS):
                    source.problem(place, "no image of this name is next to it in the tar file")
            except MalformedError as error:
                source.problem(place, error)

    def _add(self, source: Source, place: str, image: str, parts: Mapping[str, str]) -> None:
        texts = {extension: self._text(parts[extension]) for extension in _TEXTS if extension in parts}
        record: object = None
        if ".json" in texts:
            try:
                record = json.loads(texts[".json"])
            except (ValueError, RecursionError) as error:
                source.problem(f"{self.file}:{parts['.json']}", f"not JSON: {first_line(error)}")
        fields = record if isinstance(record, dict) else {}
        given = fields.get("image")
        name = as_text(given, '"image"') if isinstance(given, str) and given else image
        if name in source.entries:  # numbers may start over in every tar file
            name = f"{self.file.stem}/{name}"
        inside = packed_name(self.file, image)
        split = fields.get("split")
        source.add_image(name, Found(inside, inside), split if isinstance(split, str) else self.split, place)
        names = ("image", *(name for name in fields if name != "image"))
        layout = layout_of(names)
        listed = [fields[names[index]] for index in layout.captions] if layout else []
        lines = [line for line in (texts.get(".txt") or texts.get(".caption") or "").splitlines() if line.strip()]
        captions = listed if not lines or any(isinstance(each, list) for each in listed) else lines
        if captions:
            add_captions(source, place, name, captions)

    def _text(self, name: str) -> str:
        start, size = self.members[name]
        if size > _MAX_TEXT:
            raise MalformedError(f"{name} has {size:,} bytes, more than the {_MAX_TEXT:,} of a text that are read")
        self.stream.seek(start)
        raw = self.stream.read(size)
        try:
            check_text(raw, Path(name))
            return decode(raw, Path(name))
        except AnnotationError as error:
            raise MalformedError(error) from None


def _begins(file: Path, magic: bytes, offset: int = 0) -> bool:
    with open(file, "rb") as stream:
        stream.seek(offset)
        return stream.read(len(magic)) == magic
