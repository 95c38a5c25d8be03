"""The SQLite file of an index: its tables, and its errors in words of the index.

A killed run loses at most its last batch, and two runs wait for each other.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captioner import files
from captioner.errors import FileError, first_line

_APPLICATION_ID, _VERSION = 0x43415054, 1  # "CAPT"
_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS photos (id INTEGER PRIMARY KEY, name BLOB UNIQUE NOT NULL, stamp TEXT NOT NULL,
    scale BLOB NOT NULL, parts BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS beside (name BLOB PRIMARY KEY, stamp TEXT NOT NULL, people TEXT NOT NULL, own TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS captions (name BLOB PRIMARY KEY, text TEXT NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5(people, own, tokenize = 'porter unicode61 remove_diacritics 2');
"""


class Database:
    """An open index file; see :func:`open_database`.

    Attributes:
        path: of the file.
        base: its connection.
    """

    def __init__(self, path: Path, base: sqlite3.Connection) -> None:
        self.path, self.base = path, base

    def value(self, key: str) -> str | None:
        """Return the value that :meth:`set` has stored under a key."""
        row = self.base.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set(self, key: str, value: str) -> None:
        """Store a value under a key."""
        self.base.execute("REPLACE INTO about VALUES (?, ?)", (key, value))

    @contextmanager
    def guarded(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection, and turn SQLite's errors into errors of the index.

        Raises:
            FileError: there was one.
        """
        with _guarded(self.path):
            yield self.base


@contextmanager
def open_database(path: Path) -> Iterator[Database]:
    """Open an index file, which is created if missing.

    Raises:
        FileError: it is damaged or something else, or it cannot be written there.
    """
    files.check_place(path)
    with _guarded(path):
        if path.exists() and not os.access(path, os.W_OK):
            raise FileError(f"{path}: must not be written to; give another --index, or change its permissions")
        base = sqlite3.connect(path, timeout=60)
        try:
            application_id, version, empty = (
                base.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version", "page_count")
            )
            if not empty:
                with base:
                    ids = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_VERSION};"
                    base.executescript(f"BEGIN IMMEDIATE; {_TABLES} {ids} COMMIT;")
            elif application_id != _APPLICATION_ID:
                raise FileError(f"{path}: is another program's database; give another --index")
            elif version != _VERSION:
                raise FileError(f"{path}: was made by another version of captioner; delete it, to have it made again")
        except BaseException:
            base.close()
            raise
    try:
        yield Database(path, base)
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
            f"{path}: is damaged, or not an index of captioner ({first_line(error)}); give another --index, or, if "
            "captioner find made it, delete it"
        ) from error
