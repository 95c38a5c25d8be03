"""The texts that belong to photos: next to them, inside them, and in the output files of ``captioner caption``."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from captioner import files
from captioner.data.rows import unguarded
from captioner.errors import FileError, first_line
from captioner.metadata import SIDECAR_NAMES, TextSidecars, XmpSidecars, text_sidecar, texts_of

_SIDECARS: tuple[TextSidecars | XmpSidecars, ...] = (
    TextSidecars(),
    *(XmpSidecars(name=name) for name in SIDECAR_NAMES),
)


class Texts(NamedTuple):
    """Texts of a photo, one in each line.

    Attributes:
        people: written by people, or by other programs.
        own: written by this program.
    """

    people: str = ""
    own: str = ""


def stamp_of(path: Path) -> str:
    """Return the size and time of a file, which change with its content; empty if it is not there."""
    with suppress(OSError, ValueError):
        status = path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    return ""


def photo_texts(photo: Path) -> tuple[str, Callable[[], Texts]]:
    """Return a stamp of the files that can hold texts of a photo, and a function that reads them.

    These are the photo itself, its XMP sidecars and its text sidecar. What a camera wrote is left out.

    The function raises an :class:`ImageError` if the photo is missing, and a :class:`FileError` if a sidecar is damaged
    or cannot be read.
    """
    paths = (photo, *(sidecars.path(photo) for sidecars in _SIDECARS))
    stamps = [f"{path.suffix} {stamp}" for path in paths if (stamp := stamp_of(path))]

    def read() -> Texts:
        sidecar = text_sidecar(photo)
        found = [*texts_of(photo), *([] if sidecar is None else [sidecar])]
        people, own = (
            {" ".join(each.text.split()): None for each in found if each.author == author}
            for author in ("person", "captioner")
        )
        return Texts("\n".join(people), "\n".join(own))

    return ",".join(stamps), read


def read_record(path: Path, photos: Collection[bytes]) -> dict[bytes, str]:
    """Return the captions in an output file of ``captioner caption``, by the photos' names.

    Its paths are those that were given to that command, perhaps in another folder. A row belongs to the photo with the
    longest name in which its path ends.

    Args:
        path: ending in .jsonl or .csv.
        photos: names relative to their folder.

    Raises:
        FileError: it cannot be read, or is another kind of file.
    """
    found: dict[bytes, str] = {}
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for row in _of_table(file) if files.format_of(path) == "csv" else _of_lines(file):
                name, caption = _named(os.fsencode(row["image"]), photos), row["caption"]
                if name is not None and caption:
                    texts = [caption, _translation(row)]
                    found[name] = "\n".join(filter(None, texts))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); give the file of captioner caption") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, csv.Error) as error:
        reason = f"a row has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise FileError(
            f"{path}: is not what captioner caption --output writes ({reason}); give such a .jsonl or .csv file"
        ) from None
    return found


def _of_lines(file: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file):
        try:
            yield json.loads(line)
        except ValueError:
            if not number or line.endswith("\n"):
                raise
            return  # a run was killed while it wrote this line, or is writing it


def _of_table(file: Iterable[str]) -> Iterator[dict[str, Any]]:
    last = None
    for row in csv.DictReader(file):
        if row["image"] != last:  # the further captions of an image follow its best one
            yield {key: unguarded(cell) for key, cell in row.items() if cell is not None}
        last = row["image"]


def _translation(row: Mapping[str, Any]) -> str:
    translation = row.get("translation") or ""
    return translation["text"] if isinstance(translation, dict) else translation


def _named(given: bytes, photos: Collection[bytes]) -> bytes | None:
    """Return the longest end of a path that names a photo."""
    parts = given.replace(os.fsencode(os.sep), b"/").split(b"/")
    for start in range(len(parts)):
        name = os.fsencode(os.sep).join(parts[start:])
        if name in photos:
            return name
    return None
