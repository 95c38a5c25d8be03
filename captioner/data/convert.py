"""Writing a caption data set in another format.

A file (``photos.csv``) names the images where they are. A folder holds them too, as links or copies, and so does a tar
file. :func:`~captioner.data.annotations.read_captions` reads all of them back.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from captioner import files
from captioner.data.caption_files import (
    NamedImage,
    Names,
    numbers_in,
    usable_name,
    write_coco,
    write_karpathy,
    write_lines,
    write_metadata,
    write_shards,
    write_sidecar,
    write_table,
)
from captioner.data.dataset import UNDIVIDED, CaptionData, CaptionedImage
from captioner.data.find import IMAGE_EXTENSIONS
from captioner.data.lost_in_conversion import lost_in_conversion
from captioner.data.packed import read_packed
from captioner.errors import AnnotationError, FileError, ImageError, first_line
from captioner.registry import suggestion

WRITABLE = ("coco", "karpathy", "jsonl", "csv", "imagefolder", "webdataset", "txt")
"""The formats that can be written; an extension such as ``.caption`` is ``txt`` with files of that extension."""

_ENDINGS = {".jsonl": ("jsonl",), ".csv": ("csv",), ".json": ("karpathy", "coco"), ".tar": ("webdataset",)}  # of files
_NOT_WRITABLE = (".parquet", ".txt", ".tsv", ".zip", ".gz")  # endings of files that are not written


@dataclass(frozen=True)
class Conversion:
    """The result of :func:`convert`.

    Attributes:
        format: the format, one of :data:`WRITABLE` or an extension.
        splits: the number of images in each split.
        captions: the number of captions.
        lost: what the format does not hold, as sentences.
        errors: images that could not be read and were left out.
    """

    format: str
    splits: dict[str, int]
    captions: int
    lost: tuple[str, ...]
    errors: tuple[ImageError, ...]


def format_of_target(target: Path, format: str | None = None) -> str:
    """Return the format to write: the given one, or that of the target's name.

    A name without an ending is that of a folder, by default an imagefolder. ``captions_*.json`` is COCO's, any other
    ``.json`` Karpathy's, which holds splits.

    Raises:
        AnnotationError: the target exists, the format does not, or the target's name is that of another.
    """
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise AnnotationError(f"{target}: exists, and nothing is overwritten; give another name, or remove it")
    if target.suffix.lower() in _NOT_WRITABLE:
        raise AnnotationError(f"{target}: give a folder, or a file ending in {', '.join(_ENDINGS)}")
    fitting = _ENDINGS.get(target.suffix.lower(), ())
    if format is None:
        coco = "coco" in fitting and target.name.startswith("captions_")
        return "coco" if coco else fitting[0] if fitting else "imagefolder"
    if format not in WRITABLE and (not re.fullmatch(r"\.\w+", format) or format.lower() in IMAGE_EXTENSIONS):
        raise AnnotationError(
            f"format {format!r} cannot be written.{suggestion(format, list(WRITABLE))} Known: {', '.join(WRITABLE)}; "
            "or the extension of text next to the images, such as .caption"
        )
    if fitting and format not in fitting:
        raise AnnotationError(f"{target}: its name is that of {' or '.join(fitting)}, not {format}; give a folder")
    return format


def convert(
    data: CaptionData,
    target: str | Path,
    *,
    format: str | None = None,
    copy: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write a data set in another format, completely or not at all.

    Args:
        data: the data set, with all its splits.
        target: a file, which names the images where they are, or a folder, which holds them too; it must not exist.
        format: one of :data:`WRITABLE`, or an extension for text next to the images; see :func:`format_of_target`.
        copy: copy the images into a folder instead of linking to them. Images inside other files are always copied.
        progress: called with the number of images written and their total.

    Raises:
        AnnotationError: the target exists, its name is that of another format, or no image can be read.
        FileError: it cannot be written, or images cannot be linked to.
    """
    target = Path(target)
    format = format_of_target(target, format)
    work = _Conversion(data, format, copy, progress or (lambda done, total: None))
    in_file = target.suffix.lower() in _ENDINGS
    if in_file:
        with files.atomic_path(target) as temporary:
            named = work.write_file(temporary, target.parent)
    else:
        with files.atomic_folder(target) as temporary:
            named = work.write_folder(temporary)
    images = tuple(image for image, _ in named)
    captions = sum(len(image.captions) for image in images)
    lost = tuple(lost_in_conversion(format, data.splits, named, target if in_file else None))
    splits = CaptionData(data.name, format, images).splits
    return Conversion(format, splits, captions, lost, tuple(work.errors))


@dataclass
class _Conversion:
    """One conversion: its settings, and the progress and errors so far."""

    data: CaptionData
    format: str
    copy: bool
    progress: Callable[[int, int], None]
    done: int = 0
    names: Names = field(default_factory=Names)
    errors: list[ImageError] = field(default_factory=list)

    def write_file(self, file: Path, folder: Path) -> list[NamedImage]:
        """Write one file; names of images are relative to ``folder``, where it will be."""
        if self.format == "webdataset":
            return self._check(write_shards(self._read(self.data.images), lambda number: file, several=False))
        named = [NamedImage(image, _relative(image.path, folder)) for image in self.data.images]
        self._write_captions(file, named)
        return named

    def write_folder(self, root: Path) -> list[NamedImage]:
        """Write a folder with captions and images."""
        splits = self.data.splits
        if self.format == "webdataset":
            named = []
            for split in splits:
                images = [image for image in self.data.images if image.split == split]
                shard = partial(_shard_path, root, split)
                named += write_shards(self._read(images), shard, several=True)
            return self._check(named)
        named = self._check(list(self._place(root)))
        if self.format == "karpathy":
            self._write_captions(root / f"dataset_{usable_name(self.data.name)}.json", named)
        elif self.format in ("jsonl", "csv"):
            self._write_captions(root / f"captions.{self.format}", named)
        elif self.format == "coco":
            (root / "annotations").mkdir(exist_ok=True)
            for split, part in _by_split(named).items():
                self._write_captions(root / "annotations" / f"captions_{usable_name(split)}.json", part)
        elif self.format == "imagefolder":
            for split, part in _by_split(named).items():
                write_metadata(root / self._folder(split) / "metadata.jsonl", part, named)
        else:
            extension = ".txt" if self.format == "txt" else self.format
            for image, name in named:
                write_sidecar((root / name).with_suffix(extension), image.captions)
        return named

    def _write_captions(self, file: Path, named: Sequence[NamedImage]) -> None:
        # Names of files may have bytes that are not UTF-8.
        with open(file, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            if self.format == "coco":
                write_coco(stream, named, self.data.name, self._numbers())
            elif self.format == "karpathy":
                write_karpathy(stream, named, self.data.name)
            else:
                (write_lines if self.format == "jsonl" else write_table)(stream, named)

    def _numbers(self) -> dict[str, int]:
        """Return the number of each image for COCO: its id if all ids are whole numbers, else its position from 1."""
        ids = [image.image_id for image in self.data.images]
        if numbers_in([NamedImage(image, "") for image in self.data.images]):
            return {each: int(each) for each in ids}
        return {each: number for number, each in enumerate(ids, 1)}

    def _folder(self, split: str) -> str:
        """Return the folder of the images of a split; "" is that of the data set."""
        if self.format in ("karpathy", "jsonl", "csv"):
            return "images"
        if self.format == "coco":
            return usable_name(split)
        if split == UNDIVIDED:  # two metadata files of an imagefolder must not be one inside the other's folder
            return split if self.format == "imagefolder" and len(self.data.splits) > 1 else ""
        return "validation" if split == "val" else usable_name(split)

    def _place(self, root: Path) -> Iterator[NamedImage]:
        """Link or copy the images into folders, and yield those that there are."""
        for image in self.data.images:
            try:
                content = read_packed(image.path)
                head = _content(image.path, 16) if content is None else content
                folder = self._folder(image.split)
                name = f"{folder}/{self.names.of(image, folder, head)}".removeprefix("/")
                place = root / name
                place.parent.mkdir(parents=True, exist_ok=True)
                if content is not None:
                    place.write_bytes(content)
                elif self.copy:
                    _copy(image.path, place)
                else:
                    _link(image.path, place)
            except ImageError as error:
                self.errors.append(error)
            else:
                yield NamedImage(image, name)
            self._step()

    def _read(self, images: Iterable[CaptionedImage]) -> Iterator[tuple[NamedImage, bytes]]:
        """Yield the images that can be read, with their names and bytes."""
        for image in images:
            try:
                content = read_packed(image.path)
                content = _content(image.path) if content is None else content
            except ImageError as error:
                self.errors.append(error)
            else:
                yield NamedImage(image, self.names.of(image, "", content)), content
            self._step()

    def _step(self) -> None:
        self.done += 1
        self.progress(self.done, len(self.data.images))

    def _check(self, named: list[NamedImage]) -> list[NamedImage]:
        if not named:
            raise AnnotationError(f"{self.data.name}: none of its images can be read, the first: {self.errors[0]}")
        return named


def _by_split(named: Iterable[NamedImage]) -> dict[str, list[NamedImage]]:
    """Group images by their split; their names become relative to its folder."""
    parts: dict[str, list[NamedImage]] = {}
    for image, name in named:
        parts.setdefault(image.split, []).append(NamedImage(image, PurePosixPath(name).name))
    return parts


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return Path(os.path.abspath(path)).as_posix()


def _content(path: Path, size: int = -1) -> bytes:
    """Return the bytes of a file, or the first of them."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise ImageError(path, "is not a file; it is left out")
        with open(path, "rb") as stream:
            return stream.read(size)
    except FileNotFoundError as error:
        raise ImageError(path, "there is no such file; check its name, or give the folder: --images") from error
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror}); it is left out") from error


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as stream, open(target, "wb") as written:
        shutil.copyfileobj(stream, written, 1 << 20)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(os.path.abspath(source))
    except (OSError, NotImplementedError) as error:
        raise FileError(f"{target.name}: links cannot be made here ({first_line(error)}); give --copy") from error


def _shard_path(root: Path, split: str, number: int) -> Path:
    return root / f"{usable_name(split)}-{number:06d}.tar"
