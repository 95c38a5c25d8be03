"""Cutting a collection into parts, which are captioned independently and again after a failure.

An output folder holds a file for each finished part, ``part-00000.jsonl`` or ``.parquet``, written atomically, so an
existing file is complete. ``plan.json`` lists the parts, and lists next to it hold the names of loose images, one per
line as JSON. A later run walks the source again and adds parts for new files; it never changes or removes a part. A
list counts only once the plan names it, so a run may be killed at any moment.
"""

from __future__ import annotations

import heapq
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from captioner import files
from captioner.collection.limits import BadPart
from captioner.collection.part import PARQUET, TAR, UNSUPPORTED, ZIP, Part, is_tar, is_zip
from captioner.collection.storage import opened, remote_names, sort_key
from captioner.collection.tables import NoImages, column_of, open_table
from captioner.data.find import IMAGE_EXTENSIONS, find_images
from captioner.data.mark import is_drawn_image
from captioner.data.rows import require_parquet
from captioner.errors import BulkError, FileError, first_line

PLAN = "plan.json"
_LIST = re.compile(r"images-\d+\.jsonl")
_MAX_PLAN = 4 << 30  # bytes of a plan, at 100 per part
_ARCHIVES = (*TAR, *ZIP, *PARQUET)
_DAMAGED = "give another --output, or delete this folder"


@dataclass(frozen=True)
class Plan:
    """The parts of a collection and where their captions go.

    Attributes:
        folder: the output folder.
        format: format of the output files.
        column: image column of Parquet files; ``None`` finds it.
        parts: the parts, in the order in which they were found.
        begun: number of parts found by earlier runs.
        new: number of loose images found by this run.
        gone: number of loose images found by earlier runs, but not by this one.
        described: number of Parquet files without a column of bytes, which hold no images.
        unread: archives of unsupported kinds.
        problems: folders and files that could not be read; a later run tries again.
    """

    folder: Path
    format: Literal["jsonl", "parquet"]
    column: str | None
    parts: tuple[Part, ...]
    begun: int = 0
    new: int = 0
    gone: int = 0
    described: int = 0
    unread: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def file(self, number: int) -> Path:
        """Return the file of a part's captions."""
        return self.folder / f"part-{number:05d}.{self.format}"

    def unfinished(self) -> list[int]:
        """Return the numbers of the parts that have no file yet."""
        done = set(os.listdir(self.folder))
        return [number for number in range(len(self.parts)) if self.file(number).name not in done]

    def locked(self) -> AbstractContextManager[None]:
        """Lock the output folder.

        Raises:
            BulkError: another run has the lock.
        """
        return _locked(self.folder)


@dataclass
class _Scan:
    """The results of a walk through the source; see :class:`Plan`."""

    new: int = 0
    gone: int = 0
    archives: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def open_plan(
    source: str, folder: Path, *, format: Literal["jsonl", "parquet"], column: str | None, size: int, model: str
) -> Plan:
    """Cut a source into parts, or add parts for new files to an existing plan.

    Files are compared by name only: changed images, and members added to an archive, are not new.

    Args:
        source: a folder, a file or a glob pattern; local, or a URL that fsspec opens.
        folder: the output folder.
        format: format of the output files.
        column: see :class:`Plan`.
        size: loose images per part.
        model: name of the captioner; all parts of an output have the same one.

    Raises:
        BulkError: the source has no images, the folder holds other files, or another run is at work there.
        FileError: the folder cannot be written.
    """
    source = source.removeprefix("file://")
    if not source:
        raise BulkError("the name of the source is empty; give a folder, a file or a pattern")
    if "://" not in source:
        source = str(Path(source))  # photos/ and ./photos have the same names
    with _locked(folder):
        try:
            saved = _PlanFile.read(folder, {"source": source, "model": model, "format": format})
            return _scan(saved, folder, column=column, size=size)
        except BaseException as error:
            if not (folder / PLAN).exists():  # leave nothing behind
                with suppress(OSError):
                    for name in _ours(folder):
                        (folder / name).unlink()
            if isinstance(error, OSError):
                raise FileError(
                    f"{folder}: the parts cannot be written there ({error.strerror or error}); make room, and run again"
                ) from None
            raise


@dataclass
class _PlanFile:
    """The content of ``plan.json``.

    Attributes:
        settings: source, model and format of the output.
        parts: the parts, in the order in which they were found.
        described: Parquet files without a column of bytes.
    """

    settings: dict[str, Any]
    parts: list[Part]
    described: list[str]

    @classmethod
    def read(cls, folder: Path, settings: dict[str, Any]) -> _PlanFile:
        """Read the plan of an output folder, or begin one.

        Raises:
            BulkError: the plan is damaged or has other settings, or the folder has other files.
        """
        path = folder / PLAN
        if not path.exists():
            others = {name for name in os.listdir(folder) if not name.startswith(".")}.difference(_ours(folder))
            if others:
                raise BulkError(
                    f"{folder}: is not empty, and not an output of this command (it has {min(others)}); give another "
                    "--output"
                )
            return cls(settings, [], [])
        found = files.read_json(path, dict, error=BulkError, advice=_DAMAGED, max_bytes=_MAX_PLAN)
        try:
            parts = [Part.read(part) for part in found["parts"]]
            described = [str(name) for name in found["described"]]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BulkError(f"{path}: damaged ({first_line(error)}), or of an older version; {_DAMAGED}") from None
        for key, value in settings.items():
            if found.get(key) != value:
                what = f"another {key}" + " or other options" * (key == "model")
                raise BulkError(
                    f"{folder}: was begun with {what} ({found.get(key)!r}, not {value!r}); give another --output"
                )
        return cls(settings, parts, described)

    def write(self, folder: Path) -> None:
        """Write the file atomically."""
        values = {**self.settings, "described": self.described, "parts": [asdict(part) for part in self.parts]}
        files.write_text(folder / PLAN, files.json_text(values) + "\n")


def _scan(saved: _PlanFile, folder: Path, *, column: str | None, size: int) -> Plan:
    """Walk through the source, and add parts for new files; see :func:`open_plan`."""
    source, format = saved.settings["source"], saved.settings["format"]
    parts, described, begun = saved.parts, saved.described, len(saved.parts)

    found = _Scan()
    lists = dict.fromkeys(part.address for part in parts if part.kind == "pictures")
    known = {part.address for part in parts if part.kind != "pictures"}.union(described)
    loose = _loose(_names(source, folder, found.problems), found)
    parts.extend(_list(_new(loose, [folder / name for name in lists], found), folder, size, begun))
    archives = [address for address in found.archives if address not in known]
    if any(map(_is_parquet, archives)):
        try:
            require_parquet(source)
        except BulkError as error:  # the other files can be captioned meanwhile
            found.problems.append(str(error))
            archives = [address for address in archives if not _is_parquet(address)]
    for address in archives:
        parts.extend(_archive(address, column, described, found.problems))
    if not parts:
        if found.unread and not found.problems:
            raise BulkError(f"{found.unread[0]}: an archive of this kind is not read; unpack it, or make it a tar file")
        none = f"only {len(described)} Parquet files without a column of bytes" if described else ""
        nothing = f"{source}: has no images, {none or 'tar files or Parquet files'}; check the name"
        raise BulkError("\n".join(found.problems) or nothing)
    columns = {name for part in parts if part.column for name in (part.column[0], ".".join(part.column))}
    if column and columns and column not in columns and not found.problems:
        raise BulkError(f"{folder}: was begun with another column ({min(columns)}); give another --output")
    if len(parts) > begun or not known.issuperset(described):
        saved.write(folder)
    return Plan(
        folder,
        format,
        column,
        tuple(replace(part, address=str(folder / part.address)) if part.kind == "pictures" else part for part in parts),
        begun,
        found.new,
        found.gone,
        sum(name in described for name in found.archives),
        tuple(found.unread),
        tuple(found.problems),
    )


def _locked(folder: Path) -> AbstractContextManager[None]:
    return files.only_one(folder, error=BulkError, work="captions")


def _ours(folder: Path) -> list[str]:
    """List the files that a run may leave in a folder without a plan."""
    return [name for name in os.listdir(folder) if re.fullmatch(_LIST, name)]


def _list(names: Iterator[str], folder: Path, size: int, number: int) -> Iterator[Part]:
    """Write loose images to a list, and yield its parts; ``number`` is the number of the first part."""
    first = list(islice(names, size))
    if not first:
        return
    path = folder / f"images-{number:05d}.jsonl"
    parts: list[Part] = []
    with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
        for chosen in chain([first], iter(lambda: list(islice(names, size)), [])):
            parts.append(Part("pictures", path.name, file.tell(), len(chosen)))
            file.writelines(json.dumps(name).encode() + b"\n" for name in chosen)
    yield from parts


def _new(names: Iterable[str], lists: Sequence[Path], found: _Scan) -> Iterator[str]:
    """Yield the names that are in no list. Both are sorted, so this takes constant memory."""
    known = heapq.merge(*map(_read_list, lists), key=sort_key)
    one = next(known, None)
    before: list[str] = []
    for name in names:
        key = sort_key(name)
        if key <= before:
            if key == before:
                continue
            raise BulkError(f"{name}: comes after {os.sep.join(before)} in the source, which is not in order")
        before = key
        while one is not None and sort_key(one) < key:
            found.gone += 1
            one = next(known, None)
        if one == name:
            one = next(known, None)
        else:
            found.new += 1
            yield name
    found.gone += (one is not None) + sum(1 for _ in known)


def _read_list(path: Path) -> Iterator[str]:
    start, before = 0, [""]
    try:
        while True:
            with open(path, "rb") as file:  # closed in between, since there may be one for each of a thousand runs
                file.seek(start)
                lines = file.readlines(1 << 16)
                start = file.tell()
            if not lines:
                return
            for name in map(json.loads, lines):
                if not isinstance(name, str) or (key := sort_key(name)) <= before:
                    raise ValueError(f"{name!r:.50} is not a name, or is out of order")
                before = key
                yield name
    except (OSError, ValueError, RecursionError) as error:
        raise BulkError(f"{path}: damaged ({first_line(error)}); {_DAMAGED}") from None


def _is_parquet(address: str) -> bool:
    return not is_tar(address) and not is_zip(address)


def _archive(address: str, column: str | None, described: list[str], problems: list[str]) -> Iterator[Part]:
    """Yield the parts of an archive or a Parquet file, or add the file to ``described`` or ``problems``."""
    if not _is_parquet(address):
        yield Part("tar" if is_tar(address) else "zip", address)
        return
    try:
        with opened(address) as file:
            table = open_table(file)
            path = column_of(table.schema_arrow, column)
            yield from (Part("parquet", address, group, 1, path) for group in range(table.num_row_groups))
    except NoImages:
        described.append(address)
    except BadPart:
        yield Part("parquet", address)  # reading it reports the reason
    except BulkError as error:
        problems.append(f"{address}: {error}")


def _loose(names: Iterator[str], found: _Scan) -> Iterator[str]:
    """Yield the names of images, and add those of archives to ``found``."""
    for name in names:
        if name.lower().endswith(_ARCHIVES):
            found.archives.append(name)
        elif name.lower().endswith(UNSUPPORTED):
            found.unread.append(name)
        elif os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS or ("://" not in name and os.path.exists(name)):
            yield name


def _names(source: str, output: Path, problems: list[str]) -> Iterator[str]:
    """Yield the files of a source, subfolders included, in the order of :func:`sort_key`.

    The output folder, and figures drawn by this program, are left out.
    """
    if "://" in source:
        yield from remote_names(source)
        return
    found = find_images([source], recursive=True, on_unreadable=problems.append, archives=(*_ARCHIVES, *UNSUPPORTED))
    ours = os.path.join(os.path.realpath(output), "")

    @lru_cache(64)
    def in_output(folder: str) -> bool:  # links may lead there
        return os.path.join(os.path.realpath(folder), "").startswith(ours)

    for name in map(str, found):
        if name == source and not os.path.lexists(name):  # nor does a pattern match anything
            return
        if not in_output(os.path.dirname(name)) and not is_drawn_image(name):
            yield name
