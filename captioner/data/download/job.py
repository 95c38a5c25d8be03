"""One archive on its way: locked, fetched, checked and unpacked."""

from __future__ import annotations

import os
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from captioner.data.download.catalog import Archive
from captioner.data.download.fetch import Fetch
from captioner.data.download.http import Patience
from captioner.data.download.progress import Monitor, Progress, StoppedError
from captioner.data.download.record import Record
from captioner.data.download.unpack import ZIP_ERRORS, check_room, choose_members, is_member, size_of, write_member
from captioner.errors import DownloadError, FileError, first_line
from captioner.files import writing


@dataclass(frozen=True)
class Outcome:
    """The result for one archive.

    Attributes:
        fetched: bytes that came over the network.
        written: files unpacked in this run.
        present: files that had been unpacked before.
        error: why it failed; None if it did not.
    """

    archive: Archive
    fetched: int = 0
    written: int = 0
    present: int = 0
    error: DownloadError | None = None


class Job:
    """Downloads and unpacks one archive.

    Args:
        archive: the archive.
        root: the folder of all data.
        members: patterns of the members to unpack; empty for all that have a place.
        keep: whether the archive is kept after unpacking.
        patience: how long it is retried.
        progress: called at every step.
        stop: set when the run is interrupted.
    """

    def __init__(
        self,
        archive: Archive,
        root: Path,
        members: tuple[str, ...],
        keep: bool,
        patience: Patience,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self.archive, self.root, self.members, self.keep = archive, root, members, keep
        self.target = root / archive.path
        self.record = Record(root, archive)
        self.monitor = Monitor(archive.path, progress, stop)
        self.fetch = Fetch(archive, self.target, self.record, patience, self.monitor)

    def room(self) -> tuple[int, int]:
        """Bytes still needed for the archive, and for its members.

        For the members it is an estimate, and 0 if only some of them are wanted.
        """
        self.record.load()
        if self._is_unpacked():
            return 0, 0
        return self.fetch.missing(), 0 if self.members else self.archive.unpacked

    def run(self) -> Outcome:
        """Do what is left to do; an error that concerns only this archive is returned, not raised."""
        try:
            with self._locked(), writing(self.target):
                self.record.load()  # another run may have continued the download
                return self._run()
        except DownloadError as error:
            return Outcome(self.archive, self.fetch.received, error=error)
        except FileError as error:
            failure = DownloadError(f"{error}; the same command then resumes")
            return Outcome(self.archive, self.fetch.received, error=failure)
        except OSError as error:
            failure = DownloadError(f"{error.filename or self.target}: {error.strerror or error}")
            return Outcome(self.archive, self.fetch.received, error=failure)
        except StoppedError:
            failure = DownloadError(f"{self.target}: interrupted; the same command continues where it stopped")
            return Outcome(self.archive, self.fetch.received, error=failure)

    def _run(self) -> Outcome:
        written = present = 0
        if self._is_unpacked():
            present = len(self.record.state["unpacked"]["files"])
        else:
            if not self.fetch.is_done():
                self.fetch.run()
            written, present = self._unpack()
        if not self.keep:
            self.target.unlink(missing_ok=True)
        return Outcome(self.archive, self.fetch.received, written, present)

    def _is_unpacked(self) -> bool:
        unpacked = self.record.state.get("unpacked")
        if not unpacked or unpacked["members"] not in ([], list(self.members)):
            return False
        return all(size_of(self.root / name) == size for name, size in unpacked["files"].items())

    def _unpack(self) -> tuple[int, int]:
        """Unpack what is not there yet; return how many files were written, and how many were already there."""
        written = done = 0
        try:
            with zipfile.ZipFile(self.target) as file:
                chosen = choose_members(file, self.archive.places, self.members, limit=2 * self.archive.unpacked)
                if not chosen:
                    names = " or ".join(self.members) or "as expected"
                    first = ", ".join(file.namelist()[:3])
                    raise DownloadError(f"{self.target}: none of its members is called {names}; the first: {first}")
                sizes = {name: info.file_size for info, name in chosen}
                total = sum(sizes.values())
                check_room(self.root, sum(size for name, size in sizes.items() if size_of(self.root / name) != size))
                for info, name in chosen:
                    path = self.root / name
                    if not is_member(path, info):
                        write_member(file, info, path, self.monitor.check)
                        written += 1
                    done += info.file_size
                    self.monitor.report("unpacking", done, total)
        except ZIP_ERRORS as error:
            raise DownloadError(
                f"{self.target}: cannot be unpacked: {first_line(error)}; delete it and run the same command again"
            ) from error
        if sys.platform != "win32":
            os.sync()  # once, since a sync for each of a hundred thousand photos would take longer than all the rest
        self.record.save(unpacked={"members": list(self.members), "files": sizes})
        return written, len(chosen) - written

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only thread and process that works on the archive."""
        while not self.record.acquire():
            self.monitor.report("waiting", 0, None)
            self.monitor.wait(0.2)
        try:
            yield
        finally:
            self.record.release()
