"""Parts: how a collection is cut, so that each can be captioned alone, and again after a failure.

An output folder holds one file for each finished part, ``part-00000.jsonl`` or ``.parquet``. The file appears whole or
not at all, so an existing one is complete. Beside them are the plan, ``plan.json``, which lists the parts, and lists of
the loose images, one name per line as JSON. A later run walks the source again and adds parts for new files; it never
changes or removes a part. A run may be killed at any moment: a list counts only once the plan names it.
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
from captioner.bulk.limits import BadPart
from captioner.data.find import IMAGE_EXTENSIONS, find_images, is_hidden
from captioner.data.mark import is_drawn_image
from captioner.errors import BulkError, FileError, first_line
from captioner.rows import json_text, require_parquet

PLAN = "plan.json"
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
_PARQUET = (".parquet", ".pq")
_OTHER = (".zip", ".tar.zst", ".tzst", ".tar.lz4", ".tar.lz", ".tar.z", ".7z", ".rar")
_LIST = re.compile(r"images-\d+\.jsonl")
_MOST_PLAN = 4 << 30  # bytes of a plan, 100 a part; a part of an image each would be a hundred times too small
_DAMAGED = "give another --output, or delete this folder"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a collection.

    Attributes:
        kind: loose pictures, a tar file, or row groups of a Parquet file.
        address: the file; of loose pictures that which lists them.
        start: the byte of the list where the part begins, or the number of the first row group.
        count: how many loose pictures, or row groups; 0 is all.
        column: of a Parquet file, the name of that with the pictures, after those of the records that it is in; empty
            if the file could not be read when it was found.
    """

    kind: Literal["pictures", "tar", "parquet"]
    address: str
    start: int = 0
    count: int = 0
    column: tuple[str, ...] = ()

    @classmethod
    def read(cls, value: Any) -> Part:
        """Return a part from its JSON.

        Raises:
            TypeError: it is not one.
        """
        part = cls(**value | {"column": tuple(value["column"])})
        numbers = part.start, part.count
        if (
            part.kind not in ("pictures", "tar", "parquet")
            or not all(isinstance(text, str) for text in (part.address, *part.column))
            or not all(type(number) is int and number >= 0 for number in numbers)
        ):
            raise TypeError("a part of it is none")
        return part


@dataclass(frozen=True)
class Plan:
    """The parts of a collection and where their captions go.

    Attributes:
        folder: of the output.
        format: of the output's files.
        column: of Parquet files, the one with the pictures; ``None`` finds it.
        parts: in the order in which they were found.
        begun: how many parts earlier runs found.
        new: loose pictures that this run found.
        gone: loose pictures that earlier runs found and this one did not.
        described: Parquet files without a column of bytes, which are not images.
        unread: archives of kinds that are not read.
        problems: what could not be looked into; a later run looks again.
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
        """Keep other runs from the output.

        Raises:
            BulkError: one is at work there.
        """
        return _locked(self.folder)


@dataclass
class _Found:
    """What a walk through the source has found."""

    new: int = 0
    gone: int = 0
    archives: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def open_plan(
    source: str, folder: Path, *, format: Literal["jsonl", "parquet"], column: str | None, size: int, model: str
) -> Plan:
    """Cut a source into parts; if the output was begun, only what is in no part yet.

    Only names are compared: an image that has changed, and members added to an archive, are not new.

    Args:
        source: a folder, a file or a glob pattern; local, or a URL that fsspec opens.
        folder: of the output.
        format: of the output's files.
        column: see :class:`Plan`.
        size: loose pictures in a part.
        model: what captions them; an output is of one model.

    Raises:
        BulkError: the source has no pictures, the folder holds something else, or another run is at work there.
        FileError: nothing can be written there.
    """
    source = source.removeprefix("file://")
    if "://" not in source:
        source = str(Path(source))  # photos/ and ./photos have the same names
    with _locked(folder):
        try:
            state = _State.read(folder, {"source": source, "model": model, "format": format})
            return _look(state, folder, column=column, size=size)
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
class _State:
    """What ``plan.json`` holds.

    Attributes:
        told: source, model and format, which are those of all parts.
        parts: in the order in which they were found.
        described: Parquet files without a column of bytes.
    """

    told: dict[str, Any]
    parts: list[Part]
    described: list[str]

    @classmethod
    def read(cls, folder: Path, told: dict[str, Any]) -> _State:
        """Read the state of an output, or begin one.

        Raises:
            BulkError: it is damaged, of something else, or the folder has other files.
        """
        path = folder / PLAN
        if not path.exists():
            others = {name for name in os.listdir(folder) if not name.startswith(".")}.difference(_ours(folder))
            if others:
                raise BulkError(
                    f"{folder}: is not empty, and no output of this command (it has {min(others)}); give another "
                    "--output"
                )
            return cls(told, [], [])
        found = files.read_json(path, dict, error=BulkError, cure=_DAMAGED, most=_MOST_PLAN)
        try:
            parts = [Part.read(part) for part in found["parts"]]
            described = [str(name) for name in found["described"]]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BulkError(f"{path}: damaged ({first_line(error)}), or of an older version; {_DAMAGED}") from None
        for key, value in told.items():
            if found.get(key) != value:
                raise BulkError(
                    f"{folder}: was begun with another {key} ({found.get(key)!r}, not {value!r}); give another --output"
                )
        return cls(told, parts, described)

    def write(self, folder: Path) -> None:
        """Write it, completely or not at all."""
        values = {**self.told, "described": self.described, "parts": [asdict(part) for part in self.parts]}
        files.write_text(folder / PLAN, json_text(values) + "\n")


def _look(state: _State, folder: Path, *, column: str | None, size: int) -> Plan:
    """Look through the source, and add parts for what is in none yet; see :func:`open_plan`."""
    source, format = state.told["source"], state.told["format"]
    parts, described, begun = state.parts, state.described, len(state.parts)

    found = _Found()
    lists = dict.fromkeys(part.address for part in parts if part.kind == "pictures")
    known = {part.address for part in parts if part.kind != "pictures"}.union(described)
    loose = _loose(_names(source, folder, found.problems), found)
    parts.extend(_list(_new(loose, [folder / name for name in lists], found), folder, size, begun))
    archives = [address for address in found.archives if address not in known]
    if not all(map(_is_tar, archives)):
        try:
            require_parquet(source)
        except BulkError as error:  # the others can be captioned meanwhile
            found.problems.append(str(error))
            archives = list(filter(_is_tar, archives))
    for address in archives:
        parts.extend(_archive(address, column, described, found.problems))
    if not parts:
        if found.unread and not found.problems:
            raise BulkError(f"{found.unread[0]}: an archive of this kind is not read; unpack it, or make it a tar file")
        none = f"only {len(described)} Parquet files without a column of bytes" if described else ""
        nothing = f"{source}: has no pictures, {none or 'tar files or Parquet files'}; check the name"
        raise BulkError("\n".join(found.problems) or nothing)
    columns = {name for part in parts if part.column for name in (part.column[0], ".".join(part.column))}
    if column and columns and column not in columns and not found.problems:
        raise BulkError(f"{folder}: was begun with another column ({min(columns)}); give another --output")
    if len(parts) > begun or not known.issuperset(described):
        state.write(folder)
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
    """List what a run of this command may leave in a folder before there is a plan."""
    return [name for name in os.listdir(folder) if re.fullmatch(_LIST, name)]


def _list(names: Iterator[str], folder: Path, size: int, number: int) -> Iterator[Part]:
    """Write loose images to a list, and yield the parts of it; ``number`` is that of the first."""
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


def _new(names: Iterable[str], lists: Sequence[Path], found: _Found) -> Iterator[str]:
    """Yield the names that are in no list; both are in the order of a walk, so none needs to be held."""
    known = heapq.merge(*map(_read_list, lists), key=_place)
    one = next(known, None)
    before: list[str] = []
    for name in names:
        place = _place(name)
        if place <= before:
            if place == before:
                continue
            raise BulkError(f"{name}: comes after {os.sep.join(before)} in the source, which is not in order")
        before = place
        while one is not None and _place(one) < place:
            found.gone += 1
            one = next(known, None)
        if one == name:
            one = next(known, None)
        else:
            found.new += 1
            yield name
    found.gone += (one is not None) + sum(1 for _ in known)


def _place(name: str) -> list[str]:
    return name.replace(os.sep, "/").split("/")


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
                if not isinstance(name, str) or (place := _place(name)) <= before:
                    raise ValueError(f"{name!r:.50} is not a name, or is out of order")
                before = place
                yield name
    except (OSError, ValueError, RecursionError) as error:
        raise BulkError(f"{path}: damaged ({first_line(error)}); {_DAMAGED}") from None


def _archive(address: str, column: str | None, described: list[str], problems: list[str]) -> Iterator[Part]:
    """Yield the parts of a tar or Parquet file, or add it to those without images or to the problems."""
    from captioner.bulk.reading import opened
    from captioner.bulk.tables import NoImages, column_of, open_table

    if _is_tar(address):
        yield Part("tar", address)
        return
    try:
        with opened(address) as file:
            table = open_table(file)
            path = column_of(table.schema_arrow, column)
            yield from (Part("parquet", address, group, 1, path) for group in range(table.num_row_groups))
    except NoImages:
        described.append(address)
    except BadPart:
        yield Part("parquet", address)  # which tells why
    except BulkError as error:
        problems.append(f"{address}: {error}")


def _is_tar(name: str) -> bool:
    return name.lower().endswith(TAR)


def _loose(names: Iterator[str], found: _Found) -> Iterator[str]:
    """Yield the names of images, and add those of archives to what was found."""
    for name in names:
        if name.lower().endswith((*TAR, *_PARQUET)):
            found.archives.append(name)
        elif name.lower().endswith(_OTHER):
            found.unread.append(name)
        elif os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS or ("://" not in name and os.path.exists(name)):
            yield name


def _names(source: str, output: Path, problems: list[str]) -> Iterator[str]:
    """Yield the files that a source stands for, those of its subfolders included, in the order of their places.

    The output itself, and figures that this program drew, are left out.
    """
    if "://" in source:
        yield from _remote_names(source)
        return
    found = find_images([source], recursive=True, on_unreadable=problems.append, archives=(*TAR, *_PARQUET, *_OTHER))
    ours = os.path.join(os.path.realpath(output), "")

    @lru_cache(64)
    def in_output(folder: str) -> bool:  # which links may lead to
        return os.path.join(os.path.realpath(folder), "").startswith(ours)

    for name in map(str, found):
        if not in_output(os.path.dirname(name)) and not is_drawn_image(name):
            yield name


def _remote_names(source: str) -> list[str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source)
        pattern = re.search(r"[*?[]", path)
        hits = {path: "directory"}
        if pattern:
            hits = {name: about["type"] for name, about in system.glob(path, detail=True).items()}
        # Hidden files are left out below what was named, unless a pattern has them.
        top = (path[: pattern.start()].rpartition("/")[0] if pattern else path.rstrip("/")) + "/"
        shown = is_hidden(path.removeprefix(top))
        names = {
            name
            for hit, kind in hits.items()
            for name in (system.find(hit) if kind == "directory" else [hit])  # find of a file gives the file
            if shown or not (name.startswith(top) and is_hidden(name.removeprefix(top)))
        }
        return sorted(map(system.unstrip_protocol, names), key=_place)
    except Exception as error:  # each kind of storage has its own
        raise BulkError(f"{source}: cannot be listed ({first_line(error)})") from error
