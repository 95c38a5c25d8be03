"""The index of a folder's photos: small features of each image, and the texts that belong to it.

It is one SQLite file, so a killed run loses at most its last batch, and two runs wait for each other. Full-text search
is SQLite's FTS5: BM25 (Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75) over words stemmed as by Porter 1980.

Letters in shapes: P photos, n parts of an image, D features.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from captioner import files
from captioner.caption import Array
from captioner.captioner import Captioner
from captioner.data.loader import ImageLoader
from captioner.engines.engine import averaged
from captioner.errors import CaptionerError, FileError, ImageError, first_line
from captioner.retrieval.texts import beside, read_record

INDEX = ".captioner.index"
"""The index file in a folder of photos."""

SIDE = 2
"""Rows and columns of the parts in which an image's features are averaged."""

_OURS, _VERSION = 0x43415054, 1  # "CAPT"
_BATCH = 64  # photos written at once
_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS photos (id INTEGER PRIMARY KEY, name BLOB UNIQUE NOT NULL, stamp TEXT NOT NULL,
    scale BLOB NOT NULL, parts BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS beside (name BLOB PRIMARY KEY, stamp TEXT NOT NULL, people TEXT NOT NULL, own TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS captions (name BLOB PRIMARY KEY, text TEXT NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5(people, own, tokenize = 'porter unicode61 remove_diacritics 2');
"""


@dataclass
class Report:
    """Numbers of photos after an update, and the errors of those that cannot be read.

    Attributes:
        new: encoded for the first time.
        changed: encoded again.
        before: in the index, and unchanged.
        gone: removed from the index.
        errors: of photos, sidecars and records that cannot be read.
    """

    new: int = 0
    changed: int = 0
    before: int = 0
    gone: int = 0
    errors: list[CaptionerError] = field(default_factory=list)


class PhotoIndex:
    """The photos of a folder; see :func:`open_index`.

    Args:
        base: an open database.
        path: its file.
        folder: of the photos.
    """

    def __init__(self, base: sqlite3.Connection, path: Path, folder: Path) -> None:
        self._base, self.path, self.folder = base, path, folder

    def update(
        self,
        photos: Iterable[Path],
        model: str,
        load: Callable[[], Captioner],
        *,
        records: Sequence[Path] = (),
        max_pixels: int | None = None,
        workers: int = 2,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Report:
        """Bring the index up to date: encode photos that are new or changed, and read texts that are.

        Args:
            photos: the photos in the folder that are searched; others stay in the index while their files exist.
            model: identifies the model; the features of another one are made again.
            load: loads it, if photos must be encoded.
            records: output files of ``captioner caption``, of which the last has precedence.
            max_pixels: a larger image is an error.
            workers: threads that load images.
            progress: called with the numbers of photos that are encoded and that are to be.

        Raises:
            FileError: the disk is full, or the index is damaged.
        """
        report = Report()
        with self._guarded():
            if self._value("model") != model:
                with self._base:
                    self._base.execute("DELETE FROM photos")
                    self._set("model", model)
            stamps = dict(self._base.execute("SELECT name, stamp FROM photos"))
            found: dict[bytes, str] = {}
            waiting: list[tuple[bytes, Path, str]] = []
            for path in photos:
                name = os.fsencode(path.relative_to(self.folder))
                try:
                    stamp = _stamp(path)
                except OSError:
                    stamp = ""
                if name in found:
                    continue
                found[name] = stamp
                if stamps.get(name) == stamp:
                    report.before += 1
                else:
                    waiting.append((name, path, stamp))
            if waiting:
                self._encode(waiting, load(), stamps, report, max_pixels, workers, progress)
            gone = [name for name in stamps if name not in found and not os.path.lexists(self._path(name))]
            gone += [name for name, _, stamp in waiting if name in stamps and self._stamp_of(name) != stamp]
            report.gone = len(gone)
            with self._base:
                for table in ("photos", "beside"):
                    self._base.executemany(f"DELETE FROM {table} WHERE name = ?", [(name,) for name in gone])
                self._read_texts(found, records, report)
                self._base.execute("DROP TABLE IF EXISTS temp.searched")
                self._base.execute("CREATE TEMP TABLE searched (name BLOB PRIMARY KEY)")
                self._base.executemany("INSERT INTO searched VALUES (?)", [(name,) for name in found])
        return report

    def names(self) -> list[bytes]:
        """Return the names of the P photos that are searched, relative to the folder, in the order of :meth:`parts`."""
        with self._guarded():
            return [name for (name,) in self._base.execute(f"SELECT name {_SEARCHED}")]

    def parts(self) -> Array:
        """Return the features of the photos that are searched, (P, n, D) float32."""
        with self._guarded():
            rows = self._base.execute(f"SELECT scale, parts {_SEARCHED}").fetchall()
        if not rows:
            return np.empty((0, 1, 1), np.float32)
        scale = np.frombuffer(b"".join(scale for scale, _ in rows), np.float32).reshape(len(rows), -1, 1)
        parts = np.frombuffer(b"".join(parts for _, parts in rows), np.int8).reshape(*scale.shape[:2], -1)
        found: Array = parts * scale
        return found

    def matches(self, words: Iterable[str], *, own: bool = True) -> dict[bytes, float]:
        """Return BM25 of some words, by name, for the photos that are searched and have one of them in their texts.

        Args:
            words: stemmed and compared without accents.
            own: include the texts that this program wrote.
        """
        quoted = " OR ".join(f'"{word}"' for word in (word.replace('"', "") for word in words) if word.strip())
        if not quoted:
            return {}
        if not own:
            quoted = f"people : ({quoted})"
        with self._guarded():
            rows = self._base.execute(
                "SELECT photos.name, -bm25(texts) FROM texts JOIN photos ON photos.id = texts.rowid "
                "JOIN temp.searched USING (name) WHERE texts MATCH ?",
                (quoted,),
            )
            return dict(rows)

    def text(self, name: bytes) -> str:
        """Return the texts of a photo, one in each line, those of people first."""
        with self._guarded():
            row = self._base.execute(
                "SELECT people, own FROM texts WHERE rowid = (SELECT id FROM photos WHERE name = ?)", (name,)
            ).fetchone()
        return "\n".join(dict.fromkeys("\n".join(filter(None, row)).splitlines())) if row else ""

    def _encode(
        self,
        waiting: Sequence[tuple[bytes, Path, str]],
        captioner: Captioner,
        stamps: Mapping[bytes, str],
        report: Report,
        max_pixels: int | None,
        workers: int,
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        engine = captioner.engine
        loader = ImageLoader(
            [path for _, path, _ in waiting],
            engine.transform,
            batch_size=engine.encoded_at_once(32),
            workers=workers,
            max_pixels=max_pixels,
            prefetch=8,
        )
        rows: list[tuple[bytes, str, bytes, bytes]] = []
        done = 0

        def write() -> None:
            with self._base:
                self._base.executemany(
                    "INSERT INTO photos (name, stamp, scale, parts) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE "
                    "SET stamp = excluded.stamp, scale = excluded.scale, parts = excluded.parts",
                    rows,
                )
            rows.clear()

        for batch, features in engine.features(loader):
            report.errors += [error for _, error in batch.errors]
            done += len(batch) + len(batch.errors)
            if len(batch):
                assert engine.grid is not None
                scale, parts = _quantised(averaged(features, engine.grid, min(SIDE, *engine.grid)))
                for row, position in enumerate(batch.positions):
                    name, _, stamp = waiting[position]
                    rows.append((name, stamp, scale[row].tobytes(), parts[row].tobytes()))
                    report.changed += name in stamps
                    report.new += name not in stamps
            if len(rows) >= _BATCH:
                write()
            if progress:
                progress(done, len(waiting))
        write()

    def _path(self, name: bytes) -> Path:
        return self.folder / os.fsdecode(name)

    def _stamp_of(self, name: bytes) -> str | None:
        row = self._base.execute("SELECT stamp FROM photos WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _read_texts(self, found: Mapping[bytes, str], records: Sequence[Path], report: Report) -> None:
        """Read the texts beside and inside photos, where a file has changed, and captions in records."""
        known = dict(self._base.execute("SELECT name, stamp FROM beside"))
        changed = set()
        for name in found:
            stamp, read = beside(self._path(name))
            if known.get(name) == stamp:
                continue
            try:
                texts = read()
            except CaptionerError as error:
                report.errors += [] if isinstance(error, ImageError) else [error]
                continue
            changed.add(name)
            self._base.execute("REPLACE INTO beside VALUES (?, ?, ?, ?)", (name, stamp, *texts))
        stamp = " ".join(f"{record} {_stamp_or_none(record)}" for record in records)
        if self._value("records") != stamp or report.new:
            captions: dict[bytes, str] = {}
            names = {name for (name,) in self._base.execute("SELECT name FROM photos")}
            for record in records:
                try:
                    captions |= read_record(record, names)
                except CaptionerError as error:
                    report.errors.append(error)
            before = dict(self._base.execute("SELECT name, text FROM captions"))
            changed |= {name for name in before.keys() | captions.keys() if before.get(name) != captions.get(name)}
            self._base.execute("DELETE FROM captions")
            self._base.executemany("INSERT INTO captions VALUES (?, ?)", captions.items())
            self._set("records", stamp)
        self._base.execute("DELETE FROM texts WHERE rowid NOT IN (SELECT id FROM photos)")
        for name in changed:
            self._base.execute("DELETE FROM texts WHERE rowid = (SELECT id FROM photos WHERE name = ?)", (name,))
        self._base.execute(
            "INSERT INTO texts (rowid, people, own) "
            "SELECT id, coalesce(people, '') AS theirs, "
            "trim(coalesce(captions.text, '') || char(10) || coalesce(own, ''), char(10)) AS ours "
            "FROM photos LEFT JOIN captions USING (name) LEFT JOIN beside USING (name) "
            "WHERE theirs || ours != '' AND id NOT IN (SELECT rowid FROM texts)"
        )

    def _value(self, key: str) -> str | None:
        row = self._base.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def _set(self, key: str, value: str) -> None:
        self._base.execute("REPLACE INTO about VALUES (?, ?)", (key, value))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with _guarded(self.path):
            yield


_SEARCHED = "FROM photos JOIN temp.searched USING (name) ORDER BY name"


@contextmanager
def open_index(path: Path, folder: Path) -> Iterator[PhotoIndex]:
    """Open the index of a folder's photos, which is created if missing.

    Args:
        path: of the index, by default :data:`INDEX` in the folder.
        folder: of the photos.

    Raises:
        FileError: it is damaged or something else, or it cannot be written there.
    """
    files.check_place(path)
    with _guarded(path):
        if path.exists() and not os.access(path, os.W_OK):
            raise FileError(f"{path}: must not be written to; give another --index, or change its permissions")
        base = sqlite3.connect(path, timeout=60)
        try:
            ours, version, empty = (
                base.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version", "page_count")
            )
            if not empty:
                with base:
                    ids = f"PRAGMA application_id = {_OURS}; PRAGMA user_version = {_VERSION};"
                    base.executescript(f"BEGIN IMMEDIATE; {_TABLES} {ids} COMMIT;")
            elif ours != _OURS:
                raise FileError(f"{path}: is another program's database; give another --index")
            elif version != _VERSION:
                raise FileError(f"{path}: was made by another version of captioner; delete it, to have it made again")
        except BaseException:
            base.close()
            raise
    try:
        yield PhotoIndex(base, path, folder)
    finally:
        base.close()


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into errors of the index.

    Raises:
        FileError: there was one.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise files.disk_error(path, errno.ENOSPC) from error
        if "locked" in str(error):
            raise FileError(
                f"{path}: another process has been writing it for a minute; wait until it has ended"
            ) from error
        raise FileError(f"{path}: cannot be used ({first_line(error)}); give another --index") from error
    except sqlite3.DatabaseError as error:
        raise FileError(
            f"{path}: is damaged or no index of captioner ({first_line(error)}); delete it, to have it made again"
        ) from error


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _stamp_or_none(path: Path) -> str | None:
    with suppress(OSError, ValueError):
        return _stamp(path)
    return None


def _quantised(parts: Array) -> tuple[Array, Array]:
    """Return the scale of each part and its features in eight bits."""
    scale = np.abs(parts).max(-1, keepdims=True).astype(np.float32) / 127
    return scale, np.rint(parts / np.maximum(scale, 1e-30)).astype(np.int8)
