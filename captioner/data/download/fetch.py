"""An archive's way over the network: resumed where it was cut, checked while it arrives."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from captioner.data.download.catalog import Archive
from captioner.data.download.http import CutError, Patience, RangeError, RefusedError, request
from captioner.data.download.progress import Monitor
from captioner.data.download.record import Record
from captioner.data.download.unpack import BLOCK, find_damage, size_of
from captioner.errors import DownloadError


class Fetch:
    """Downloads one archive.

    Args:
        archive: the archive.
        target: where it goes.
        record: what is known about it; locked and loaded by the caller.
        patience: how long the download is retried.
        monitor: receives the reports.

    Attributes:
        received: bytes that came over the network.
    """

    def __init__(self, archive: Archive, target: Path, record: Record, patience: Patience, monitor: Monitor) -> None:
        self.archive, self.target, self.record = archive, target, record
        self.patience, self.monitor = patience, monitor
        self.part = target.with_name(target.name + ".part")
        self.hash = self._new_hash()
        self.hashed = 0  # bytes of the part that are in self.hash
        self.joined = False  # whether the part was put together from several answers
        self.received = 0

    def missing(self) -> int:
        """Bytes still to download, as far as the size is known."""
        size = self.archive.size or 0
        return 0 if size_of(self.target) == size else max(0, size - size_of(self.part))

    def is_done(self) -> bool:
        """Whether the archive exists and passes its check."""
        if not self.target.is_file():
            return False
        status = self.target.stat()
        if self.archive.size is not None and status.st_size != self.archive.size:
            return False
        if self.record.state.get("checked") == [status.st_size, status.st_mtime_ns]:
            return True
        self._hash_file(self.target, status.st_size)
        if self._find_fault(self.target):
            return False
        self.record.save(checked=[status.st_size, status.st_mtime_ns])
        return True

    def run(self) -> None:
        """Bring the archive to its place, complete and checked."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.hash, self.hashed = self._new_hash(), 0
        self._stream_with_retries()
        fault = self._find_fault(self.part)
        if fault and self.joined:  # perhaps an old part and a new file: once more, from the beginning
            self._discard()
            self._stream_with_retries()
            fault = self._find_fault(self.part)
        if fault:
            self._discard()
            raise DownloadError(
                f"{self.target}: {self.archive.url} did not deliver the expected file ({fault}); it was changed at "
                "its source or on the way: try another network or a newer Captioner"
            )
        # The bytes are on the disk; should a power cut undo the renaming, the complete part is used again.
        os.replace(self.part, self.target)
        status = self.target.stat()
        self.record.save(part=None, checked=[status.st_size, status.st_mtime_ns])

    def _stream_with_retries(self) -> None:
        """Complete the part; give up after too many failures in a row without a byte received in between."""
        failures, best = 0, size_of(self.part)
        while True:
            try:
                return self._stream()
            except CutError as error:
                size = size_of(self.part)
                failures = 1 if size > best else failures + 1
                best = max(best, size)
                if failures >= self.patience.attempts:
                    raise DownloadError(
                        f"{self.target}: {self.archive.url} could not be downloaded ({error}; tried {failures} times); "
                        "check the network and run the same command again: it continues where it stopped"
                    ) from error
                self.monitor.wait(self.patience.wait(failures, error.wait))

    def _stream(self) -> None:
        """Request what the part lacks, and append it."""
        known = self.record.state.get("part") or {}
        offset, total, version = size_of(self.part), known.get("total"), known.get("version")
        if not known or not (version or self.archive.checksum) or offset > (total or offset):
            offset = 0  # nothing would show whether the rest belongs to it
        if offset != self.hashed:
            self._hash_file(self.part, offset)
        if offset:
            self.joined = True
            if offset == total:
                return
        try:
            answer = request(
                self.archive.url, offset=offset, total=total, version=version, timeout=self.patience.timeout
            )
        except RangeError:
            self._discard()
            raise
        except RefusedError as error:
            raise DownloadError(f"{self.target}: {error}") from error
        with answer.response:
            total = answer.total or self.archive.size
            if total is not None and self.archive.size not in (None, total):
                raise DownloadError(
                    f"{self.target}: {self.archive.url} has {total:,} bytes instead of {self.archive.size:,}; it was "
                    "changed at its source, or a login page or proxy answers in its place: open the address in a "
                    "browser"
                )
            if not answer.offset:
                self.joined, self.hash, self.hashed = False, self._new_hash(), 0
            with open(self.part, "ab" if answer.offset else "wb") as file:
                if not answer.offset:  # after the old bytes are gone, before the new ones arrive
                    self.record.save(part={"total": total, "version": answer.version})
                self.monitor.report("downloading", self.hashed, total)
                for block in answer.blocks(total):
                    file.write(block)
                    self.hash.update(block)
                    self.hashed += len(block)
                    self.received += len(block)
                    self.monitor.report("downloading", self.hashed, total)
                file.flush()
                os.fsync(file.fileno())

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.hash, self.hashed = self._new_hash(), 0

    def _new_hash(self) -> Any:
        return hashlib.new(self.archive.checksum.partition(":")[0] or "sha256")

    def _hash_file(self, path: Path, size: int) -> None:
        """Hash the first ``size`` bytes of a file."""
        self.hash, self.hashed = self._new_hash(), 0
        if size:
            with open(path, "rb") as file:
                while self.hashed < size and (block := file.read(min(BLOCK, size - self.hashed))):
                    self.hash.update(block)
                    self.hashed += len(block)
                    self.monitor.report("checking", self.hashed, size)

    def _find_fault(self, path: Path) -> str:
        """What is wrong with a file that was hashed completely; empty if nothing is."""
        algorithm, _, expected = self.archive.checksum.partition(":")
        if not expected:
            return find_damage(path, limit=2 * self.archive.unpacked)
        return "" if self.hash.hexdigest() == expected else f"{algorithm} {self.hash.hexdigest()}, not {expected}"
