"""Downloads of the archives in the catalog: resumed after a cut, checked on arrival, unpacked safely.

An archive ``NAME.zip`` is written as ``NAME.zip.part`` until it is complete and checked. Its record and a lock file are
in the hidden folder ``.captioner`` of the data folder; the lock ends with the process that holds it.
"""

from __future__ import annotations

import os
import sys
import threading
import zipfile
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from captioner.data.download.catalog import Archive
from captioner.data.download.fetch import Fetch, Patience
from captioner.data.download.monitor import Monitor, Progress, StoppedError
from captioner.data.download.record import Record, UnpackedFiles
from captioner.data.download.unpack import ZIP_ERRORS, check_room, choose_members, is_member, size_of, write_member
from captioner.errors import DownloadError, FileError, first_line
from captioner.files import writing

__all__ = ["Outcome", "Patience", "Progress", "download"]


@dataclass(frozen=True)
class Outcome:
    """The result for one archive.

    Attributes:
        archive: the archive.
        fetched: bytes downloaded.
        written: files unpacked in this run.
        present: files unpacked in an earlier run.
        error: why it failed; None if it did not.
    """

    archive: Archive
    fetched: int = 0
    written: int = 0
    present: int = 0
    error: DownloadError | None = None


def download(
    archives: Iterable[Archive],
    folder: str | Path,
    *,
    members: Sequence[str] = (),
    keep: bool = True,
    parallel: int = 3,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> Generator[Outcome, None, None]:
    """Download and unpack archives; yield the outcome of each when it is complete.

    An archive that fails does not stop the others.

    Args:
        archives: the archives; one that exists and passes its check is not fetched again.
        folder: the data folder.
        members: patterns of the names of the members to unpack; if empty, all that the catalog has a folder for.
        keep: keep the archives after unpacking.
        parallel: number of downloads at once.
        patience: how long each is retried.
        progress: called at every step, from several threads.

    Raises:
        DownloadError: too little free disk space for all of them; nothing has been downloaded.
    """
    root, stop = Path(folder), threading.Event()
    downloads = [
        _Download(archive, root, tuple(members), keep, patience or Patience(), Monitor(archive.path, progress, stop))
        for archive in dict.fromkeys(archives)
    ]
    room = [each.room() for each in downloads]
    # Without keep, an archive and its members are on the disk together only while it is being unpacked.
    both = sorted((min(pair) for pair in room), reverse=True)
    check_room(root, sum(max(pair) for pair in room) + sum(both if keep else both[:parallel]))
    with ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(each.run) for each in downloads]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


class _Download:
    """Downloads and unpacks one archive."""

    def __init__(
        self, archive: Archive, root: Path, members: tuple[str, ...], keep: bool, patience: Patience, monitor: Monitor
    ) -> None:
        self.archive, self.root, self.members, self.keep, self.monitor = archive, root, members, keep, monitor
        self.target = root / archive.path
        self.record = Record(root, archive)
        self.fetch = Fetch(archive, self.target, self.record, patience, monitor)

    def room(self) -> tuple[int, int]:
        """Return the bytes still needed for the archive, and an estimate for its members; 0 for a choice of them."""
        self.record.load()
        if self._unpacked():
            return 0, 0
        return self.fetch.missing(), 0 if self.members else self.archive.unpacked

    def run(self) -> Outcome:
        """Do the remaining work; errors that concern only this archive are returned."""
        written = present = 0
        error: DownloadError | None = None
        try:
            with self.record.locked(self.monitor), writing(self.target):
                written, present = self._run()
        except DownloadError as reason:
            error = reason
        except FileError as reason:
            error = DownloadError(f"{reason}; the same command then resumes")
        except OSError as reason:
            error = DownloadError(f"{reason.filename or self.target}: {reason.strerror or reason}")
        except StoppedError:
            error = DownloadError(f"{self.target}: interrupted; the same command resumes")
        return Outcome(self.archive, self.fetch.received, written, present, error)

    def _run(self) -> tuple[int, int]:
        """Return how many files were written, and how many were already there."""
        if unpacked := self._unpacked():
            counts = 0, len(unpacked.files)
        else:
            if not self.fetch.is_done():
                self.fetch.run()
            counts = self._unpack() if self.archive.places else (0, 0)
        if not self.keep:
            self.target.unlink(missing_ok=True)
        return counts

    def _unpacked(self) -> UnpackedFiles | None:
        """Return the record of the unpacked files if all of them exist."""
        unpacked = self.record.state.unpacked
        if unpacked is None or unpacked.members not in ([], list(self.members)):
            return None
        return unpacked if all(size_of(self.root / name) == size for name, size in unpacked.files.items()) else None

    def _unpack(self) -> tuple[int, int]:
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
                    if not is_member(self.root / name, info):
                        write_member(file, info, self.root / name, self.monitor.check)
                        written += 1
                    done += info.file_size
                    self.monitor.report("unpacking", done, total)
        except ZIP_ERRORS as error:
            raise DownloadError(
                f"{self.target}: cannot be unpacked: {first_line(error)}; delete it and run the same command again"
            ) from error
        if sys.platform != "win32":
            os.sync()  # once: a sync for each of a hundred thousand images would take longer than all the rest
        self.record.save(unpacked=UnpackedFiles(members=list(self.members), files=sizes))
        return written, len(chosen) - written
