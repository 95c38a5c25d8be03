"""Fetching an archive over HTTP: resumed after a cut, hashed on arrival, retried if that may help."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.data.download.catalog import Archive
from captioner.data.download.monitor import Monitor
from captioner.data.download.record import PartInfo, Record
from captioner.data.download.request import CutError, RangeError, blocks, request
from captioner.data.download.unpack import BLOCK, find_damage, size_of
from captioner.errors import DownloadError


@dataclass(frozen=True)
class Patience:
    """How long a download is retried.

    Attributes:
        attempts: consecutive failures without a byte received after which the download is given up.
        first: seconds to wait after the first failure, doubled after each further one. A random half at most is taken
            off, to spread the clients of a server that returns.
        longest: limit of one wait in seconds, even if the server requests more.
        timeout: seconds of silence after which a connection counts as cut.
    """

    attempts: int = 6
    first: float = 1.0
    longest: float = 60.0
    timeout: float = 30.0

    def wait(self, failures: int, requested: float = 0.0) -> float:
        """Return the seconds to wait after consecutive failures; ``requested`` is the server's wait."""
        own = min(self.first * 2.0 ** (failures - 1), self.longest) * random.uniform(0.5, 1.0)
        return max(own, min(requested, self.longest))


class Fetch:
    """Downloads one archive to ``target``, with a record that the caller has locked and loaded."""

    def __init__(self, archive: Archive, target: Path, record: Record, patience: Patience, monitor: Monitor) -> None:
        self.archive, self.target, self.record = archive, target, record
        self.patience, self.monitor = patience, monitor
        self.part = target.with_name(target.name + ".part")
        self.hash = self._new_hash()
        self.hashed = 0  # bytes of the part that are in self.hash
        self.joined = False  # whether the part consists of several responses
        self.received = 0  # bytes downloaded

    def missing(self) -> int:
        """Return the bytes still to download, as far as the size is known."""
        size = self.archive.size or 0
        return 0 if size_of(self.target) == size else max(0, size - size_of(self.part))

    def is_done(self) -> bool:
        """Return whether the archive exists and passes its check."""
        if not self.target.is_file():
            return False
        status = self.target.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        if self.archive.size not in (None, status.st_size):
            return False
        if self.record.state.checked == stamp:
            return True
        self._hash_file(self.target, status.st_size)
        if self._find_fault(self.target):
            return False
        self.record.save(checked=stamp)
        return True

    def run(self) -> None:
        """Download and check the archive.

        Raises:
            DownloadError: the server refuses, stays away, or delivers another file.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._hash_file(self.part, 0)
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
        # The bytes are on the disk; if a power cut undoes the renaming, the complete part is used again.
        os.replace(self.part, self.target)
        status = self.target.stat()
        self.record.save(part=None, checked=[status.st_size, status.st_mtime_ns])

    def _stream_with_retries(self) -> None:
        failures, best = 0, size_of(self.part)
        while True:
            try:
                return self._stream()
            except CutError as error:
                if isinstance(error, RangeError):
                    self._discard()
                size = size_of(self.part)
                failures = 1 if size > best else failures + 1
                best = max(best, size)
                if failures >= self.patience.attempts:
                    raise DownloadError(
                        f"{self.target}: {self.archive.url} could not be downloaded ({error}; tried {failures} times); "
                        "check the network and run the same command again to resume"
                    ) from error
                self.monitor.wait(self.patience.wait(failures, error.wait))

    def _stream(self) -> None:
        """Request the missing bytes and append them to the part."""
        offset, known = size_of(self.part), self.record.state.part
        if known is None or not (known.version or self.archive.checksum) or offset > (known.total or offset):
            offset, known = 0, PartInfo()  # nothing would show whether the rest belongs to it
        if offset != self.hashed:
            self._hash_file(self.part, offset)
        if offset:
            self.joined = True
            if offset == known.total:
                return
        response, offset, answered = request(self.archive.url, self.target, offset, known, self.patience.timeout)
        with response:
            total = answered.total or self.archive.size
            if total is not None and self.archive.size not in (None, total):
                raise DownloadError(
                    f"{self.target}: {self.archive.url} has {total:,} bytes instead of {self.archive.size:,}; it was "
                    "changed at its source, or a login page or proxy answers instead: open the address in a "
                    "browser"
                )
            with open(self.part, "ab" if offset else "wb") as file:
                if not offset:  # after the old bytes are gone, before the new ones arrive
                    self.joined = False
                    self._hash_file(self.part, 0)
                    self.record.save(part=PartInfo(total=total, version=answered.version))
                self.monitor.report("downloading", self.hashed, total)
                for block in blocks(response, offset, total):
                    file.write(block)
                    self.hash.update(block)
                    self.hashed += len(block)
                    self.received += len(block)
                    self.monitor.report("downloading", self.hashed, total)
                file.flush()
                os.fsync(file.fileno())

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self._hash_file(self.part, 0)

    def _new_hash(self) -> Any:
        return hashlib.new(self.archive.checksum.partition(":")[0] or "sha256")

    def _hash_file(self, path: Path, size: int) -> None:
        """Restart the hash with the first ``size`` bytes of a file."""
        self.hash, self.hashed = self._new_hash(), 0
        if size:
            with open(path, "rb") as file:
                while self.hashed < size and (block := file.read(min(BLOCK, size - self.hashed))):
                    self.hash.update(block)
                    self.hashed += len(block)
                    self.monitor.report("checking", self.hashed, size)

    def _find_fault(self, path: Path) -> str:
        """Return the fault of a completely hashed file; empty if there is none."""
        algorithm, _, expected = self.archive.checksum.partition(":")
        if not expected:
            return find_damage(path, limit=2 * self.archive.unpacked)
        return "" if self.hash.hexdigest() == expected else f"{algorithm} {self.hash.hexdigest()}, not {expected}"
