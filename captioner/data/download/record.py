"""What is known about an archive between runs, and the lock that lets one run at a time work on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from captioner.data.download.catalog import Archive
from captioner.errors import DownloadError
from captioner.files import read_json, write_json


class _Part(BaseModel):
    total: int | None
    version: str | None


class _Unpacked(BaseModel):
    members: list[str]
    files: dict[str, int]


class _State(BaseModel):
    """See :attr:`Record.state`."""

    model_config = ConfigDict(strict=True)

    of: list[str]
    part: _Part | None = None
    checked: list[int] | None = None
    unpacked: _Unpacked | None = None


class Record:
    """The record of an archive in the hidden folder ``.captioner`` of the data folder.

    Attributes:
        state: ``part``, the size and version that the part belongs to; ``checked``, the size and time of the archive
            when it was checked; ``unpacked``, the requested patterns of members, and the files of the archive.
    """

    def __init__(self, root: Path, archive: Archive) -> None:
        self.path = root / ".captioner" / (archive.path.replace("/", "-") + ".json")
        self.source = [archive.url, archive.checksum]
        self.state: dict[str, Any] = {}
        self._lock = FileLock(self.path.with_suffix(".lock"), thread_local=False)

    def load(self) -> None:
        """Read the state. A missing or damaged record, or one of another archive, gives an empty state."""
        try:
            state = read_json(self.path, dict, error=DownloadError)
            # Checked as a whole, since what it lacks is found out again.
            self.state = _State.model_validate(state).model_dump() if state.get("of") == self.source else {}
        except (DownloadError, ValidationError):
            self.state = {}

    def save(self, **changes: Any) -> None:
        """Change the state and write it."""
        self.state = {"of": self.source, **self.state, **changes}
        write_json(self.path, self.state, indent=None)

    def acquire(self) -> bool:
        """Try to lock the record against other threads and processes; the system unlocks it if the process dies."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Unlock the record."""
        self._lock.release()
