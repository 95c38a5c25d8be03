"""A part of a collection, and the archives that are parts, by the endings of their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
PARQUET = (".parquet", ".pq")
ZIP = (".zip",)
UNSUPPORTED = (".tar.zst", ".tzst", ".tar.lz4", ".tar.lz", ".tar.z", ".7z", ".rar")  # archives that are not read

ARCHIVES: dict[Literal["tar", "zip", "parquet"], tuple[str, ...]] = {"tar": TAR, "zip": ZIP, "parquet": PARQUET}


def archive_kind(name: str) -> Literal["tar", "zip", "parquet"] | None:
    """Return the kind of an archive by its name; ``None`` if it is another file."""
    return next((kind for kind, endings in ARCHIVES.items() if name.lower().endswith(endings)), None)


def is_tar(name: str) -> bool:
    """Return whether a file is a tar file, by its name."""
    return name.lower().endswith(TAR)


def is_zip(name: str) -> bool:
    """Return whether a file is a ZIP file, by its name."""
    return name.lower().endswith(ZIP)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a collection.

    Attributes:
        kind: loose images, a tar file, a ZIP file, or row groups of a Parquet file.
        address: the file; for loose images, the file that lists them.
        start: the byte of the list where the part begins, or the number of the first row group.
        count: number of loose images, or of row groups; 0 is all.
        column: path of the image column of a Parquet file, through the structs around it; empty if the file could not
            be read when it was found.
    """

    kind: Literal["pictures", "tar", "zip", "parquet"]
    address: str
    start: int = 0
    count: int = 0
    column: tuple[str, ...] = ()

    @classmethod
    def read(cls, value: Any) -> Part:
        """Return a part from its JSON.

        Raises:
            TypeError: the JSON is not a part's.
        """
        part = cls(**value | {"column": tuple(value["column"])})
        numbers = part.start, part.count
        if (
            part.kind not in ("pictures", "tar", "zip", "parquet")
            or not all(isinstance(text, str) for text in (part.address, *part.column))
            or not all(type(number) is int and number >= 0 for number in numbers)
        ):
            raise TypeError("one of its parts is invalid")
        return part
