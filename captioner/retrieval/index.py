"""The index of a folder's photos: small features of each image, and the texts that belong to it.

Letters in shapes: P photos, n parts of an image, D features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from captioner.caption import Array
from captioner.captioner import Captioner
from captioner.data.loader import ImageLoader
from captioner.engines.engine import averaged
from captioner.errors import CaptionerError
from captioner.retrieval.database import Database, open_database
from captioner.retrieval.full_text import FullText
from captioner.retrieval.texts import stamp_of

INDEX = ".captioner.index"
"""The index file in a folder of photos."""

SIDE = 2
"""Rows and columns of the parts in which an image's features are averaged."""

_BATCH = 64  # photos written at once
_SEARCHED = "FROM photos JOIN temp.searched USING (name) ORDER BY name"


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
        database: the index.
        folder: of the photos.

    Attributes:
        path: of the index.
        texts: the texts of the photos.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self.path, self.folder = database, database.path, folder
        self.texts = FullText(database, folder)

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
        with self._database.guarded() as base:
            if self._database.value("model") != model:
                with base:
                    base.execute("DELETE FROM photos")
                    self._database.set("model", model)
            stamps = dict(base.execute("SELECT name, stamp FROM photos"))
            found: dict[bytes, str] = {}
            waiting: list[tuple[bytes, Path, str]] = []
            for path in photos:
                name = os.fsencode(path.relative_to(self.folder))
                if name in found:
                    continue
                found[name] = stamp = stamp_of(path)
                if stamps.get(name) == stamp:
                    report.before += 1
                else:
                    waiting.append((name, path, stamp))
            if waiting:
                self._encode(waiting, load(), stamps, report, max_pixels, workers, progress)
            gone = [
                name for name in stamps if name not in found and not os.path.lexists(self.folder / os.fsdecode(name))
            ]
            gone += [name for name, _, stamp in waiting if name in stamps and self._stamp_of(name) != stamp]
            report.gone = len(gone)
            with base:
                for table in ("photos", "beside"):
                    base.executemany(f"DELETE FROM {table} WHERE name = ?", [(name,) for name in gone])
                report.errors += self.texts.update(found, records, reread=report.new > 0)
                base.execute("DROP TABLE IF EXISTS temp.searched")
                base.execute("CREATE TEMP TABLE searched (name BLOB PRIMARY KEY)")
                base.executemany("INSERT INTO searched VALUES (?)", [(name,) for name in found])
        return report

    def names(self) -> list[bytes]:
        """Return the names of the P photos that are searched, relative to the folder, in the order of :meth:`parts`."""
        with self._database.guarded() as base:
            return [name for (name,) in base.execute(f"SELECT name {_SEARCHED}")]

    def parts(self) -> Array:
        """Return the features of the photos that are searched, (P, n, D) float32."""
        with self._database.guarded() as base:
            rows = base.execute(f"SELECT scale, parts {_SEARCHED}").fetchall()
        if not rows:
            return np.empty((0, 1, 1), np.float32)
        scale = np.frombuffer(b"".join(scale for scale, _ in rows), np.float32).reshape(len(rows), -1, 1)
        parts = np.frombuffer(b"".join(parts for _, parts in rows), np.int8).reshape(*scale.shape[:2], -1)
        found: Array = parts * scale
        return found

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
        base, engine = self._database.base, captioner.engine
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
            with base:
                base.executemany(
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

    def _stamp_of(self, name: bytes) -> str | None:
        row = self._database.base.execute("SELECT stamp FROM photos WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None


@contextmanager
def open_index(path: Path, folder: Path) -> Iterator[PhotoIndex]:
    """Open the index of a folder's photos, which is created if missing.

    Args:
        path: of the index, by default :data:`INDEX` in the folder.
        folder: of the photos.

    Raises:
        FileError: it is damaged or something else, or it cannot be written there.
    """
    with open_database(path) as database:
        yield PhotoIndex(database, folder)


def _quantised(parts: Array) -> tuple[Array, Array]:
    """Return the scale of each part and its features in eight bits."""
    scale = np.abs(parts).max(-1, keepdims=True).astype(np.float32) / 127
    return scale, np.rint(parts / np.maximum(scale, 1e-30)).astype(np.int8)
