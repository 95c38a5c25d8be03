"""Writing the files of caption formats, and the names of images in them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple, TextIO

from captioner.data.dataset import FOLDER_SPLITS, UNDIVIDED, CaptionedImage
from captioner.data.find import IMAGE_EXTENSIONS
from captioner.data.packed import is_packed
from captioner.errors import ImageError
from captioner.files import json_text
from captioner.text.vocabulary import tokenize

_LINE_BREAK = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_UNUSABLE = re.compile(r'[\x00-\x1f\ud800-\udfff<>:"/\\|?*]')  # characters that a name cannot have on some system
_MAGIC = (  # (offset, bytes there, extension)
    *((0, b"\xff\xd8", ".jpg"), (0, b"\x89PNG", ".png"), (0, b"GIF8", ".gif"), (8, b"WEBP", ".webp")),
    *((0, b"BM", ".bmp"), (0, b"II*\0", ".tif"), (0, b"MM\0*", ".tif"), (4, b"jP  ", ".jp2")),
    *((4, b"ftypavif", ".avif"), (4, b"ftyphei", ".heic"), (4, b"ftypmif1", ".heic")),
)
_SHARD_BYTES, _SHARD_IMAGES = 1 << 30, 10_000  # in one of WebDataset's tar files


class NamedImage(NamedTuple):
    """An image and its name in a format, relative to the caption file, with ``/`` between folders."""

    image: CaptionedImage
    name: str


class Names:
    """File names that are unique in their folder, also without their extensions, in lower and upper case."""

    def __init__(self) -> None:
        self.taken: set[tuple[str, str]] = set()

    def of(self, image: CaptionedImage, folder: str, head: bytes) -> str:
        """Return the name of an image: that of its file, or the end of its id if it is inside another file.

        Args:
            image: the image.
            folder: the folder of the name.
            head: its first 16 bytes or more, by which a name without the extension of an image gets one.

        Raises:
            ImageError: the name has no such extension, and the bytes are of no known kind.
        """
        base = PureWindowsPath(image.image_id).name if is_packed(image.path) else image.path.name
        if os.path.splitext(base)[1].lower() not in IMAGE_EXTENSIONS:
            extension = next((extension for start, magic, extension in _MAGIC if head.startswith(magic, start)), None)
            if extension is None:
                raise ImageError(image.path, "is not an image of a known kind; leave it out")
            base = base.replace(".", "_") + extension
        stem, extension = os.path.splitext(usable_name(base))
        unique, number = stem, 1
        while (folder, unique.casefold()) in self.taken:
            number += 1
            unique = f"{stem}-{number}"
        self.taken.add((folder, unique.casefold()))
        return unique + extension


def usable_name(name: str) -> str:
    """Return a name that every system allows and that is not hidden."""
    return _UNUSABLE.sub("_", name).lstrip(".").rstrip(". ") or "image"


def write_coco(stream: TextIO, named: Sequence[NamedImage], title: str, numbers: dict[str, int]) -> None:
    """Write COCO's JSON.

    Args:
        stream: takes the text.
        named: the images.
        title: the name of the data set.
        numbers: the number of each image id.
    """
    captions = [(numbers[image.image_id], caption) for image, _ in named for caption in image.captions]
    content = {
        "info": {"description": title},
        "images": [{"id": numbers[image.image_id], "file_name": name} for image, name in named],
        "annotations": [
            {"id": number, "image_id": image, "caption": caption} for number, (image, caption) in enumerate(captions, 1)
        ],
    }
    stream.write(json_text(content))


def write_karpathy(stream: TextIO, named: Sequence[NamedImage], title: str) -> None:
    """Write Karpathy's JSON; ids that are whole numbers become ``cocoid``.

    Without these, ``filename`` identifies an image, so it has the folders too if two images have one name.
    """
    numbered = numbers_in(named)
    distinct = numbered or len({name.rpartition("/")[2] for _, name in named}) == len(named)
    records: list[dict[str, Any]] = []
    first = 0
    for number, (image, name) in enumerate(named):
        folder, _, base = name.rpartition("/") if distinct else ("", "", name)
        sentences = [
            {"raw": caption, "tokens": tokenize(caption), "imgid": number, "sentid": first + index}
            for index, caption in enumerate(image.captions)
        ]
        first += len(sentences)
        record: dict[str, Any] = {"filename": base, "imgid": number, "split": image.split, "sentences": sentences}
        record["sentids"] = [sentence["sentid"] for sentence in sentences]
        if folder:
            record["filepath"] = folder
        if numbered:
            record["cocoid"] = int(image.image_id)
        records.append(record)
    stream.write(json_text({"dataset": title, "images": records}))


def numbers_in(named: Sequence[NamedImage]) -> bool:
    """Return whether all image ids are whole numbers."""
    return all(re.fullmatch("0|[1-9][0-9]*", image.image_id) for image, _ in named)


def write_lines(stream: TextIO, named: Sequence[NamedImage]) -> None:
    """Write JSON lines: ``image``, ``caption`` or a list ``captions``, and ``split`` unless there is none."""
    single = all(len(image.captions) == 1 for image, _ in named)
    for image, name in named:
        row: dict[str, Any] = {"image": name}
        row |= {"caption": image.captions[0]} if single else {"captions": image.captions}
        if image.split != UNDIVIDED:
            row["split"] = image.split
        print(json_text(row), file=stream)


def write_table(stream: TextIO, named: Sequence[NamedImage]) -> None:
    """Write CSV: a row for each caption, and a column of splits unless there are none.

    Args:
        stream: takes the text; opened with ``newline=""``.
        named: the images.
    """
    divided = any(image.split != UNDIVIDED for image, _ in named)
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["image", "caption", *(["split"] if divided else [])])
    for image, name in named:
        split = [image.split if image.split != UNDIVIDED else ""] if divided else []
        table.writerows([name, caption, *split] for caption in image.captions)


def write_metadata(file: Path, named: Sequence[NamedImage], whole: Sequence[NamedImage]) -> None:
    """Write an imagefolder's ``metadata.jsonl``.

    Hugging Face's loader needs the same fields, of the same types, in every such file of a data set.

    Args:
        file: its path.
        named: the images in the folder of the file.
        whole: all images of the data set.
    """
    single = all(len(image.captions) == 1 for image, _ in whole)
    in_folders = all(image.split in FOLDER_SPLITS | {UNDIVIDED} for image, _ in whole)
    with open(file, "w", encoding="utf-8", newline="") as stream:
        for image, name in named:
            row: dict[str, Any] = {"file_name": name, "text": image.captions[0] if single else image.captions}
            if not in_folders:
                row["split"] = image.split
            print(json_text(row), file=stream)


def write_sidecar(file: Path, captions: Sequence[str]) -> None:
    """Write the text next to an image: a line for each caption."""
    with open(file, "x", encoding="utf-8", newline="") as stream:  # "x": never through a link to an image
        stream.writelines(f"{on_one_line(caption)}\n" for caption in captions)


def write_shards(
    samples: Iterable[tuple[NamedImage, bytes]], file: Callable[[int], Path], *, several: bool
) -> list[NamedImage]:
    """Write WebDataset's tar files: each image under a number, with its extension, a ``.txt`` and a ``.json``.

    Args:
        samples: the images and their bytes.
        file: a tar file by its number, from 0.
        several: begin another after 1 GB or 10,000 images.
    """
    named: list[NamedImage] = []
    archive: tarfile.TarFile | None = None
    shards = 0
    with ExitStack() as opened:
        for (image, name), content in samples:
            if archive is None or (several and (archive.offset > _SHARD_BYTES or len(named) % _SHARD_IMAGES == 0)):
                opened.close()
                archive = opened.enter_context(tarfile.open(file(shards), "w", format=tarfile.USTAR_FORMAT))
                shards += 1
            about = {"image": name, "captions": image.captions, "split": image.split}
            parts = {
                os.path.splitext(name)[1].lower(): content,
                ".txt": "".join(image.captions[:1]).encode(),
                ".json": json.dumps(about, ensure_ascii=False).encode(),
            }
            for extension, data in parts.items():
                member = tarfile.TarInfo(f"{len(named):09d}{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all members
            named.append(NamedImage(image, name))
    return named


def on_one_line(caption: str) -> str:
    """Replace line breaks by spaces."""
    return _LINE_BREAK.sub(" ", caption)
