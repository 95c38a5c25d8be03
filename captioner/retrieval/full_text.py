"""Full-text search in the texts of photos, with SQLite's FTS5.

The ranking is BM25 (Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75) over words stemmed as by Porter 1980.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.errors import CaptionerError, ImageError
from captioner.retrieval.database import Database
from captioner.retrieval.texts import photo_texts, read_record, stamp_of


class FullText:
    """The texts of the photos in an index.

    Args:
        database: the index.
        folder: of the photos.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder

    def update(self, names: Iterable[bytes], records: Sequence[Path], *, reread: bool) -> list[CaptionerError]:
        """Read the texts next to and inside photos, where a file has changed, and captions in records.

        The caller commits.

        Args:
            names: of the photos.
            records: output files of ``captioner caption``, of which the last has precedence.
            reread: also read unchanged records, because there are new photos.

        Returns:
            The errors of sidecars and records that cannot be read.
        """
        base, errors = self._database.base, list[CaptionerError]()
        known = dict(base.execute("SELECT name, stamp FROM beside"))
        changed = set()
        for name in names:
            stamp, read = photo_texts(self._folder / os.fsdecode(name))
            if known.get(name) == stamp:
                continue
            try:
                texts = read()
            except CaptionerError as error:
                errors += [] if isinstance(error, ImageError) else [error]
                continue
            changed.add(name)
            base.execute("REPLACE INTO beside VALUES (?, ?, ?, ?)", (name, stamp, *texts))
        stamp = " ".join(f"{record} {stamp_of(record)}" for record in records)
        if self._database.value("records") != stamp or reread:
            captions: dict[bytes, str] = {}
            photos = {name for (name,) in base.execute("SELECT name FROM photos")}
            for record in records:
                try:
                    captions |= read_record(record, photos)
                except CaptionerError as error:
                    errors.append(error)
            before = dict(base.execute("SELECT name, text FROM captions"))
            changed |= {name for name in before.keys() | captions.keys() if before.get(name) != captions.get(name)}
            base.execute("DELETE FROM captions")
            base.executemany("INSERT INTO captions VALUES (?, ?)", captions.items())
            self._database.set("records", stamp)
        base.execute("DELETE FROM texts WHERE rowid NOT IN (SELECT id FROM photos)")
        for name in changed:
            base.execute("DELETE FROM texts WHERE rowid = (SELECT id FROM photos WHERE name = ?)", (name,))
        base.execute(
            "INSERT INTO texts (rowid, people, own) "
            "SELECT id, coalesce(people, '') AS theirs, "
            "trim(coalesce(captions.text, '') || char(10) || coalesce(own, ''), char(10)) AS ours "
            "FROM photos LEFT JOIN captions USING (name) LEFT JOIN beside USING (name) "
            "WHERE theirs || ours != '' AND id NOT IN (SELECT rowid FROM texts)"
        )
        return errors

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
        with self._database.guarded() as base:
            rows = base.execute(
                "SELECT photos.name, -bm25(texts) FROM texts JOIN photos ON photos.id = texts.rowid "
                "JOIN temp.searched USING (name) WHERE texts MATCH ?",
                (quoted,),
            )
            return dict(rows)

    def of(self, name: bytes) -> str:
        """Return the texts of a photo, one in each line, those of people first."""
        with self._database.guarded() as base:
            row = base.execute(
                "SELECT people, own FROM texts WHERE rowid = (SELECT id FROM photos WHERE name = ?)", (name,)
            ).fetchone()
        return "\n".join(dict.fromkeys("\n".join(filter(None, row)).splitlines())) if row else ""
