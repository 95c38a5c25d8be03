"""Images inside tar and Parquet files, with names like those of files: ``photos.tar:dog.jpg``, ``photos.parquet:17``.

The file comes before the colon, the name of the member or the index of the row after it, as ``captioner bulk`` names
them. Such a name is accepted like that of an image file: :func:`load_image <captioner.data.images.load_image>` reads
the image from the containing file, and nothing is unpacked to the disk.

A member of a tar file is read by its position. A row of Parquet is read in a group of rows: in their order, every group
is read once; in random order, a group is read for each image, which is slow if groups are large.
"""

from __future__ import annotations

import os
import re
import tarfile
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

from captioner.data.find import IMAGE_EXTENSIONS
from captioner.data.names import MAX_IMAGE_BYTES
from captioner.data.rows import require_parquet
from captioner.errors import ImageError, first_line

Column: TypeAlias = "tuple[str, ...]"  # path of names: the structs around a column, then its own
BYTES = ("binary", "large_binary", "binary_view")
"""Arrow's types of bytes, by their names, since older pyarrow has no function for the last."""

_NAME = re.compile(r"(.+?\.(?:tar|parquet)):(.+)", re.DOTALL | re.IGNORECASE)
_ROWS = 16  # rows of Parquet that are decoded at once
_MAX_KEPT = 8  # such batches that stay in memory, since threads read rows in nearly their order


def packed_name(file: str | Path, member: str | int) -> Path:
    """Return the name of an image inside a tar or Parquet file; see :func:`read_packed`."""
    return Path(f"{file}:{member}")


def containing_file(image: str | Path) -> Path:
    """Return the tar or Parquet file that contains an image, or the image's own file."""
    parts = _parts(os.fspath(image))
    return Path(parts[0]) if parts else Path(image)


def is_packed(image: str | Path) -> bool:
    """Return whether an image is inside a tar or Parquet file that exists and has such a member or row."""
    parts = _parts(os.fspath(image))
    if parts is None:
        return False
    file, member = parts
    try:
        return member in tar_members(file) if _is_tar(file) else 0 <= int(member) < _rows(file).count
    except (OSError, ValueError, tarfile.TarError):
        return False


def read_packed(image: str | Path) -> bytes | None:
    """Return the encoded bytes of an image inside a tar or Parquet file.

    Args:
        image: its name, ``FILE.tar:MEMBER`` or ``FILE.parquet:ROW``.

    Returns:
        The bytes; ``None`` if it is not such a name, or there is no such tar or Parquet file.

    Raises:
        ImageError: the file is damaged or holds no such image.
        BulkError: Parquet needs pyarrow, which is not installed.
    """
    name = os.fspath(image)
    parts = _parts(name)
    if parts is None:
        return None
    file, member = parts
    try:
        return _from_tar(name, file, member) if _is_tar(file) else _from_parquet(name, file, member)
    except (OSError, ValueError, tarfile.TarError) as error:  # ValueError: pyarrow's own
        raise ImageError(name, f"cannot be read out of {file} ({first_line(error)}); copy that file again") from error


def _parts(name: str) -> tuple[str, str] | None:
    """Split the name of an image inside a file; ``None`` if it is that of a file, or of nothing."""
    found = _NAME.fullmatch(name)
    return (found[1], found[2]) if found and not os.path.lexists(name) and os.path.isfile(found[1]) else None


def _is_tar(file: str) -> bool:
    return file.lower().endswith(".tar")


def _from_tar(name: str, file: str, member: str) -> bytes:
    place = tar_members(file).get(member)
    if place is None:
        raise ImageError(name, f"{file} has no member {member!r}; tar -tf lists its members")
    start, size = place
    _check_size(name, size)
    with open(file, "rb") as stream:
        stream.seek(start)
        return stream.read(size)


def _check_size(name: str, size: int) -> None:
    if size > MAX_IMAGE_BYTES:
        raise ImageError(
            name, f"has {size:,} bytes, more than the {MAX_IMAGE_BYTES:,} that are read; save it as a file"
        )


def tar_members(file: str | Path) -> Mapping[str, tuple[int, int]]:
    """Return the start and size in bytes of every regular member of an uncompressed tar file, by its name.

    The headers are read once; 10,000 members take 0.2 s.

    Raises:
        OSError: the file cannot be read.
        tarfile.TarError: it is not a tar file, or compressed.
    """
    status = os.stat(file)
    return _tar_members(os.fspath(file), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _tar_members(file: str, size: int, modified: int) -> Mapping[str, tuple[int, int]]:
    members = {}
    with tarfile.open(file, "r:", tarinfo=CheckedMember) as archive:
        for member in archive:
            if member.isreg() and member.sparse is None:
                members[member.name] = (member.offset_data, member.size)
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all members
    return members


class CheckedMember(tarfile.TarInfo):
    """A member of a tar file; a damaged header raises an error, where tarfile would end the archive silently."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> CheckedMember:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(f"a header in it is damaged: {error}") from None
            raise  # zeros end an archive


def image_column(schema: Any) -> Column | None:
    """Return the column with the encoded bytes of images, of bytes or a struct with the bytes in a field ``bytes``.

    Of several, one named "image" is taken, else the first.

    Args:
        schema: the Arrow schema of a Parquet file.
    """
    found = [path for field in schema for path in bytes_columns(field)]
    found = [path for path in found if len(path) == 1 or path[1:] == ("bytes",)]
    return min(found, key=lambda column: column[0].lower() != "image", default=None)


def bytes_columns(field: Any) -> Iterator[Column]:
    """Yield the columns of bytes in a field of an Arrow schema: its own name, or the paths through its structs."""
    from pyarrow import types

    kind = getattr(field.type, "storage_type", field.type)  # of an extension type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        yield from ((field.name, *path) for inner in kind for path in bytes_columns(inner))
    elif str(kind) in BYTES:
        yield (field.name,)


def _from_parquet(name: str, file: str, row: str) -> bytes:
    rows = _rows(file)
    if rows.column is None:
        raise ImageError(name, f"{file} has no column with the bytes of images")
    if not row.isdecimal() or int(row) >= rows.count:
        raise ImageError(name, f"{file} has the rows 0 to {rows.count - 1:,}")
    value = rows[int(row)]
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    # Hugging Face's data sets may leave the bytes in the image's own file.
    if data is None and path and os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS:
        try:
            return (Path(file).parent / path).read_bytes()
        except (OSError, ValueError) as error:
            reason = (
                f"this row has no bytes but a path, {path}, which cannot be read; save the data set with the images"
            )
            raise ImageError(name, reason) from error
    if data is None:
        raise ImageError(name, "this row has no image; leave it out")
    _check_size(name, len(data))
    return data


def _rows(file: str) -> _Rows:
    require_parquet(file)
    status = os.stat(file)
    return _opened_rows(file, status.st_size, status.st_mtime_ns)


class _Rows:
    """The images of a Parquet file by the number of their row; threads take turns."""

    def __init__(self, file: str) -> None:
        from pyarrow.parquet import ParquetFile

        # With a buffer, a group of rows is read in pieces and not as a whole.
        self.table = ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        self.column = image_column(self.table.schema_arrow)
        metadata = self.table.metadata
        self.count: int = metadata.num_rows
        self.starts = [0, *accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))]
        self.lock = threading.Lock()
        self.recent: deque[tuple[int, Any]] = deque(maxlen=_MAX_KEPT)  # the first row of each batch, and the batch
        self.following: Iterator[tuple[int, Any]] = iter(())
        self.next_row = self.end = 0  # the row that follows, and the end of its group

    def __getitem__(self, row: int) -> Any:
        """Return the value of the image's column: bytes, a dictionary of bytes and a path, or None."""
        with self.lock:
            for first, batch in reversed(self.recent):
                if first <= row < first + len(batch):
                    return batch[row - first].as_py()
            if not self.next_row <= row < self.end:
                group = bisect_right(self.starts, row) - 1
                self.next_row, self.end = self.starts[group], self.starts[group + 1]
                self.following = self._batches(group)
            for first, batch in self.following:
                self.recent.append((first, batch))
                self.next_row = first + len(batch)
                if row < self.next_row:
                    return batch[row - first].as_py()
        raise OSError("a group of rows ends too early")

    def _batches(self, group: int) -> Iterator[tuple[int, Any]]:
        """Yield the images of a group of rows in batches, each with the number of its first row."""
        assert self.column is not None
        first = self.starts[group]
        for batch in self.table.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[self.column[0]]):
            yield first, batch.column(0)
            first += batch.num_rows


@lru_cache(maxsize=4)
def _opened_rows(file: str, size: int, modified: int) -> _Rows:
    return _Rows(file)
