"""The output file of a collection: its rows are written one by one, and the next run continues it.

A run captions what is new, what has changed since its row was written, by size and time, and what failed. Its rows are
appended, and an older row of the same image is removed at the end. A killed run therefore loses at most the row that it
was writing, and leaves at most some rows twice, which the next run removes.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from captioner import files
from captioner.collection.items import Item
from captioner.data import rows
from captioner.errors import BulkError, FileError


class State(NamedTuple):
    """The state of the newest row of an image.

    Attributes:
        stamp: size and time of the image's file; see :attr:`Item.stamp`.
        failed: whether it has an error in place of a caption.
        other: whether it is of another model than this run's, or lacks the language.
    """

    stamp: tuple[int | None, str | None]
    failed: bool
    other: bool


@dataclass
class Counts:
    """Numbers of images.

    Attributes:
        before: captioned by earlier runs, and unchanged.
        new: in no row.
        changed: other than when their row was written, or captioned by another model or without the language, or
            without the caption next to or inside them.
        failed: without a caption by earlier runs, and tried again.
        captioned: captioned by this run.
        unreadable: without a caption by this run.
    """

    before: int = 0
    new: int = 0
    changed: int = 0
    failed: int = 0
    captioned: int = 0
    unreadable: int = 0

    def __str__(self) -> str:
        """Return a sentence for the end of a run."""
        found = [
            f"{number:,} {what}"
            for number, what in (
                (self.captioned, "captioned"),
                (self.unreadable, "failed"),
                (self.before, "captioned before"),
            )
            if number
        ]
        kinds = [
            f"{number:,} {what}"
            for number, what in ((self.new, "new"), (self.changed, "changed"), (self.failed, "failed before"))
            if number
        ]
        known = self.before + self.changed + self.failed
        return ", ".join(found) + (f" ({', '.join(kinds)})" if known and kinds else "")


class Record:
    """The rows of images in a JSONL or CSV file; see :func:`open_record`.

    Attributes:
        counts: what this run found and did.
    """

    def __init__(
        self,
        path: Path,
        model: str,
        names: Sequence[str],
        *,
        language: str,
        folder: Path | None,
        advice: str,
        overwrite: bool,
    ) -> None:
        self._path, self._model, self._overwrite, self.counts = path, model, overwrite, Counts()
        self._language, self._folder, self._advice = language, folder, advice
        self._columns = names if files.format_of(path) == "csv" else None
        self._append: Callable[[rows.Row], None] | None = None
        self._states: dict[str, State] = {}
        self._chosen: set[str] = set()
        self._last: str | None = None  # the image of the last row
        self._stale = False  # there are older rows of an image
        self._end = 0  # position after the last whole row that was read
        self._replaces = False  # the file has something else, which the first row replaces
        if path.exists() and path.stat().st_size:
            try:
                self._read_states()
            except BulkError:
                if not overwrite:
                    raise
                self._replaces, self._stale, self._last = True, False, None
                self._states.clear()
        self._file = self._opened()

    def chosen(self, items: Iterable[Item], *, lacks: Callable[[Item], bool] = lambda item: False) -> Iterator[Item]:
        """Yield the items that need a caption, each once.

        Args:
            items: iterated lazily.
            lacks: whether an item needs one although its row is there.
        """
        for item in items:
            name = self._name(item.name)
            if name in self._chosen:
                continue
            self._chosen.add(name)
            state = self._states.get(name)
            if state is None:
                self.counts.new += 1
            elif state.failed:
                self.counts.failed += 1
            elif self._overwrite or state.stamp != item.stamp or state.other or lacks(item):
                self.counts.changed += 1
            else:
                self.counts.before += 1
                continue
            yield item

    def write(self, row: rows.Row) -> None:
        """Append the row of an image.

        Raises:
            FileError: the disk is full or fails.
        """
        image = self._name(row["image"])
        if image in self._states:
            self._stale = True
            if image == self._last:  # in a table, its old and new rows would seem to be one image's captions
                self._remove_older({image})
        if row["error"] is None:
            self.counts.captioned += 1
        else:
            self.counts.unreadable += 1
        self._last = image
        with files.writing(self._path):
            if self._replaces:
                self._file.seek(0)
                self._file.truncate()
                self._replaces = False
            if self._append is None:
                self._append = rows.appender(self._file, self._columns, header=not self._file.tell())
            self._append(row | {"image": image})
            self._file.flush()

    def close(self) -> None:
        """Close the file, and remove the older rows of images that were captioned again; without rows, remove it.

        Raises:
            FileError: the disk is full or fails, or the file is not there any more.
        """
        with files.writing(self._path):
            os.fsync(self._file.fileno())
        if not os.path.exists(self._path) or not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path)):
            self._file.close()
            raise FileError(
                f"{self._path}: another program has removed or replaced it meanwhile, with the rows of this run; run "
                "this again"
            )
        if self._stale:
            self._remove_older()
        self._file.close()
        if not self._path.stat().st_size:
            self._path.unlink()

    def _name(self, image: str) -> str:
        """Return the name of an image in its row."""
        return image if self._folder is None else str(Path(image).relative_to(self._folder))

    def _opened(self) -> TextIO:
        self._append = None
        with files.writing(self._path):
            return open(self._path, "a", encoding="utf-8", errors="surrogateescape", newline="")

    def _read_states(self) -> None:
        """Read the rows that are there, and then cut off one that a killed run did not finish.

        Raises:
            BulkError: they are not of this program, or of another model; the file is left alone.
        """
        for row, _ in self._rows():
            image = row["image"]
            if row["model"] != self._model and self._folder is None:
                raise BulkError(
                    f"{self._path}: was begun with another model ({row['model']!r}, not {self._model!r}); "
                    f"{self._advice}"
                )
            other = row["model"] != self._model or self._language not in ("", row["language"].lower())
            self._stale |= image != self._last and image in self._states
            self._last = image
            self._states[image] = State((row["bytes"], row["modified"]), row["error"] is not None, other)
        if not self._end:
            raise self._foreign("it")
        with open(self._path, "rb+") as file:
            if file.seek(0, os.SEEK_END) > self._end:
                file.truncate(self._end)
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # an editor has removed it
                file.write(b"\n")

    def _rows(self) -> Iterator[tuple[rows.Row, str]]:
        """Yield the rows, each with its text, up to one that a killed run did not finish.

        Raises:
            BulkError: the file has something else.
        """
        self._end = 0
        with open(self._path, "rb") as file:
            lines = (line.decode("utf-8", "surrogateescape") for line in file)
            for row, text in self._of_lines(lines) if self._columns is None else self._of_table(lines, self._columns):
                self._end += _size(text)
                yield row, text

    def _of_lines(self, lines: Iterator[str]) -> Iterator[tuple[rows.Row, str]]:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                language = str((row.get("translation") or {}).get("language", ""))
                row = {name: row[name] for name in ("model", "error", *rows.STAMP)} | {
                    "image": os.fspath(row["image"]),  # a TypeError if it is not text
                    "language": language,
                }
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                if not line.endswith("\n"):
                    return
                raise self._foreign(f"line {number}") from None
            yield row, line

    def _of_table(self, lines: Iterator[str], names: Sequence[str]) -> Iterator[tuple[rows.Row, str]]:
        text: list[str] = []
        read_all = False

        def noted() -> Iterator[str]:
            nonlocal read_all
            for line in lines:
                text.append(line)
                yield line
            read_all = True

        table = csv.reader(noted())
        try:
            if next(table, None) != [*names]:
                raise self._foreign("its header")
            self._end = _size("".join(text))
            text.clear()
            for cells in table:
                # The reader looks for the end of a quoted cell up to the end of the file.
                if not text[-1].endswith("\n") and (read_all or len(cells) < len(names)):
                    return
                row: dict[str, Any] = {"language": "", **dict(zip(names, map(rows.unguarded, cells), strict=True))}
                size = int(row["bytes"]) if row["bytes"] else None
                found = {"error": row["error"] or None, "bytes": size, "modified": row["modified"] or None}
                yield row | found, "".join(text)
                text.clear()
        except (csv.Error, ValueError):
            raise self._foreign(f"line {table.line_num}") from None

    def _foreign(self, where: str) -> BulkError:
        return BulkError(f"{self._path}: {where} is not what this command writes with these options; {self._advice}")

    def _remove_older(self, entirely: Iterable[str] = ()) -> None:
        """Remove all but the newest rows of each image, and all rows of some images."""
        self._file.close()
        newest = {image: number for number, image, _ in self._numbered()} | dict.fromkeys(entirely, -1)
        with (
            files.atomic_path(self._path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            rows.appender(file, self._columns)
            file.writelines(text for number, image, text in self._numbered() if newest[image] == number)
        self._stale = False
        self._file = self._opened()

    def _numbered(self) -> Iterator[tuple[int, str, str]]:
        """Yield the number, the image and the text of each row; the captions of one image have one number."""
        number, last = 0, None
        for row, text in self._rows():
            number += row["image"] != last
            last = row["image"]
            yield number, last, text


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


@contextmanager
def open_record(
    path: Path,
    *,
    model: str,
    more: Sequence[str] = (),
    language: str | None = None,
    folder: Path | None = None,
    advice: str = "give another --output, or --overwrite",
    overwrite: bool = False,
) -> Iterator[Record]:
    """Open the output file of a collection, which is created if missing, and continued if an earlier run wrote it.

    Args:
        path: ending in .jsonl or .csv.
        model: name of the captioner; all rows of a file have the same one, except the record of a folder.
        more: further columns of a table; see :func:`captioner.data.rows.columns`.
        language: into which captions are translated; images without it are captioned again.
        folder: the folder that the record belongs to, if any: image names are relative to it, and images captioned by
            another model are captioned again.
        advice: advice for a file that cannot be continued.
        overwrite: caption everything again, and replace a file of another kind.

    Raises:
        BulkError: the file was not written by this program with these options, or another run is writing it.
        FileError: it cannot be read or written.
    """
    files.check_place(path)
    with files.only_writer(path, error=BulkError):
        try:
            record = Record(
                path,
                model,
                rows.columns(more),
                language=(language or "").lower(),
                folder=folder,
                advice=advice,
                overwrite=overwrite,
            )
        except OSError as error:
            raise files.place_error(path, error) from error
        try:
            yield record
        finally:
            record.close()
