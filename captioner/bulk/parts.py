"""Parts: how a collection is cut, so that each can be captioned alone, and again after a failure.

An output folder holds ``plan.json``, ``pictures.txt`` (the loose pictures of the source, one a line), and a file
``part-00000.jsonl`` or ``.parquet`` for each finished part. A part's file appears whole or not at all, so what is there
needs no more work, whoever did it and however it ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from captioner import files
from captioner.data.find import IMAGE_EXTENSIONS, find_images
from captioner.errors import BulkError, first_line

PLAN, PICTURES = "plan.json", "pictures.txt"
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a collection.

    Attributes:
        kind: loose pictures, a tar file, or a group of rows of a Parquet file.
        address: the file; of loose pictures that which lists them.
        start: the byte of the list where the part begins, or the number of the row group.
        count: how many loose pictures.
    """

    kind: Literal["pictures", "tar", "parquet"]
    address: str
    start: int = 0
    count: int = 0


@dataclass(frozen=True)
class Plan:
    """The parts of a collection and where their captions go.

    Attributes:
        folder: of the output.
        format: of the output's files.
        column: of Parquet files, the one with the pictures; ``None`` finds it.
        parts: in the order of the source.
    """

    folder: Path
    format: Literal["jsonl", "parquet"]
    column: str | None
    parts: tuple[Part, ...]

    def file(self, number: int) -> Path:
        """Return the file of a part's captions."""
        return self.folder / f"part-{number:05d}.{self.format}"

    def unfinished(self) -> list[int]:
        """Return the numbers of the parts that have no file yet."""
        done = set(os.listdir(self.folder))
        return [number for number in range(len(self.parts)) if self.file(number).name not in done]


def open_plan(
    source: str, folder: Path, *, format: Literal["jsonl", "parquet"], column: str | None, size: int, model: str
) -> Plan:
    """Cut a source into parts, or read how it was cut when the output was begun.

    Args:
        source: a folder, a file or a glob pattern; local, or a URL that fsspec opens.
        folder: of the output.
        format: of the output's files.
        column: see :class:`Plan`.
        size: loose pictures in a part.
        model: what captions them; an output is of one model.

    Raises:
        BulkError: the source has no pictures, or the folder holds something else.
    """
    told: dict[str, Any] = {"source": source, "model": model, "format": format, "column": column, "size": size}
    path = folder / PLAN
    if path.exists():
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
            parts = tuple(Part(**part) for part in begun.pop("parts"))
        except (ValueError, KeyError, TypeError) as error:
            raise BulkError(f"{path}: damaged ({error}); give another --output, or delete this folder") from None
        for key, value in told.items():
            if begun.get(key) != value:
                raise BulkError(
                    f"{folder}: was begun with another {key} ({begun.get(key)!r}, not {value!r}); give another --output"
                )
    else:
        if folder.is_dir() and any(folder.iterdir()):
            raise BulkError(f"{folder}: is not empty, and no output of this command; give another --output")
        parts = tuple(_cut(source, folder, size))
        if not parts:
            (folder / PICTURES).unlink()
            with suppress(OSError):  # it is not empty
                folder.rmdir()
            raise BulkError(f"{source}: has no pictures, tar files or Parquet files; check the name")
        files.write_json(path, {**told, "parts": [asdict(part) for part in parts]}, indent=None)
    return Plan(folder, format, column, parts)


def _cut(source: str, folder: Path, size: int) -> Iterator[Part]:
    """Yield the parts of a source, and write its loose pictures to the list."""
    archives: list[str] = []
    with files.atomic_path(folder / PICTURES) as temporary:
        begins: list[tuple[int, int]] = []  # of the loose pictures' parts: byte and number
        with open(temporary, "wb") as listed:
            loose = _loose(_names(source), archives)
            while chosen := list(islice(loose, size)):
                begins.append((listed.tell(), len(chosen)))
                listed.writelines(os.fsencode(name) + b"\n" for name in chosen)
    for start, count in begins:
        yield Part("pictures", str(folder / PICTURES), start, count)
    for address in archives:
        if address.lower().endswith(_TAR):
            yield Part("tar", address)
        else:
            for group in range(_row_groups(address)):
                yield Part("parquet", address, group)


def _loose(names: Iterator[str], archives: list[str]) -> Iterator[str]:
    """Yield the names of pictures, and append those of archives to a list."""
    for name in names:
        if name.lower().endswith((*_TAR, *_PARQUET)):
            archives.append(name)
        elif os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and "\n" not in name:
            yield name


def _names(source: str) -> Iterator[str]:
    """Yield the files that a source stands for, those of its subfolders included, sorted."""
    if "://" not in source:
        if not os.path.isdir(source):
            yield from map(str, find_images([source]))
            return
        for folder, inside, names in os.walk(source):
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            yield from (os.path.join(folder, name) for name in sorted(names) if not name.startswith("."))
        return
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source)
        found: Sequence[str] = (
            system.glob(path) if any(mark in path for mark in "*?[") else system.find(path)  # of a file: itself
        )
    except Exception as error:  # each kind of storage has its own
        raise BulkError(f"{source}: cannot be listed ({first_line(error)})") from error
    yield from (system.unstrip_protocol(name) for name in sorted(found))


def _row_groups(address: str) -> int:
    """Return the number of row groups of a Parquet file; 1 if it is damaged, so that its part tells why."""
    from captioner.bulk.reading import BadPart, open_parquet

    try:
        with open_parquet(address) as table:
            return int(table.num_row_groups)
    except BadPart:
        return 1
