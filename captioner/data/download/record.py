"""The state of an archive between runs, and its lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from captioner.data.download.catalog import Archive
from captioner.data.download.monitor import Monitor
from captioner.errors import DownloadError
from captioner.files import read_json, write_json


class PartInfo(BaseModel):
    """Size and version of the file that a part belongs to, as far as known."""

    total: int | None = None
    version: str | None = None


class UnpackedFiles(BaseModel):
    """The requested patterns of members, and the sizes of the unpacked files."""

    members: list[str]
    files: dict[str, int]


class ArchiveState(BaseModel):
    """The record of an archive between runs.

    Attributes:
        of: its address and checksum.
        part: the file that the part belongs to.
        checked: size and time of the archive when it was checked.
        unpacked: the unpacked files.
    """

    model_config = ConfigDict(strict=True)

    of: list[str]
    part: PartInfo | None = None
    checked: list[int] | None = None
    unpacked: UnpackedFiles | None = None


class Record:
    """The state of an archive in the hidden folder ``.captioner`` of the data folder, and its lock."""

    def __init__(self, root: Path, archive: Archive) -> None:
        self.path = root / ".captioner" / (archive.path.replace("/", "-") + ".json")
        self.state = ArchiveState(of=[archive.url, archive.checksum])
        self._lock = FileLock(self.path.with_suffix(".lock"), thread_local=False)

    def load(self) -> None:
        """Read the state; it is empty if the file is missing, damaged or of another archive."""
        empty = ArchiveState(of=self.state.of)
        try:
            state = ArchiveState.model_validate(read_json(self.path, dict, error=DownloadError))
        except (DownloadError, ValidationError):
            state = empty
        self.state = state if state.of == empty.of else empty

    def save(self, **changes: Any) -> None:
        """Change the state and write it."""
        self.state = self.state.model_copy(update=changes)
        write_json(self.path, self.state.model_dump(), indent=None)

    @contextmanager
    def locked(self, monitor: Monitor) -> Iterator[None]:
        """Be the only thread and process that works on the archive, with its state loaded."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                self._lock.acquire(timeout=0)
                break
            except Timeout:
                monitor.report("waiting", 0, None)
                monitor.wait(0.2)
        try:
            self.load()  # another run may have changed it
            yield
        finally:
            self._lock.release()
