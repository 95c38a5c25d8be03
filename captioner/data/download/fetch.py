"""Fetching an archive over HTTP: resumed after a cut, hashed on arrival, retried if that may help."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

import captioner
from captioner.data.download.catalog import Archive
from captioner.data.download.unpack import BLOCK, find_damage, size_of
from captioner.errors import DownloadError, first_line
from captioner.files import read_json, write_json

Progress = Callable[[str, str, int, "int | None"], None]
"""Called with the archive's path, the phase, the bytes done, and the total bytes if known.

The phases are "waiting", "checking", "downloading" and "unpacking".
"""


class StoppedError(Exception):
    """The run was interrupted."""


class CutError(Exception):
    """A temporary failure: a cut connection or a busy server, which may request a ``wait`` in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class RangeError(CutError):
    """The server cannot resume the file; it has to be fetched from the beginning."""


class Monitor:
    """Reports the progress of one archive, and raises :class:`StoppedError` when the run is interrupted by ``stop``."""

    def __init__(self, path: str, progress: Progress | None, stop: threading.Event) -> None:
        self.path, self.progress, self.stop = path, progress, stop

    def check(self) -> None:
        """Raise if the run is interrupted."""
        if self.stop.is_set():
            raise StoppedError

    def report(self, phase: str, done: int, total: int | None) -> None:
        """Report a step."""
        self.check()
        if self.progress is not None:
            self.progress(self.path, phase, done, total)

    def wait(self, seconds: float) -> None:
        """Sleep until the time is over or the run is interrupted."""
        self.stop.wait(seconds)
        self.check()


class PartInfo(BaseModel):
    """Size and version of the file that a part belongs to, as far as known."""

    total: int | None = None
    version: str | None = None


class Unpacked(BaseModel):
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
    unpacked: Unpacked | None = None


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
        response, offset, answered = self._request(offset, known)
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
                for block in _blocks(response, offset, total):
                    file.write(block)
                    self.hash.update(block)
                    self.hashed += len(block)
                    self.received += len(block)
                    self.monitor.report("downloading", self.hashed, total)
                file.flush()
                os.fsync(file.fileno())

    def _request(self, offset: int, known: PartInfo) -> tuple[http.client.HTTPResponse, int, PartInfo]:
        """Request the archive from ``offset`` on, or as a whole from a server that ignores ranges.

        Returns:
            The open response, the position of its first byte in the file, and the file's size and version.

        Raises:
            RangeError: the server cannot resume at ``offset``.
            CutError: another temporary failure.
            DownloadError: the server refuses, or its certificate is not valid.
        """
        headers = {"User-Agent": f"captioner/{captioner.__version__}", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if known.version:
                headers["If-Range"] = known.version
        response = self._open(urllib.request.Request(self.archive.url, headers=headers))
        if response.status == 200:
            total = _number(response.headers.get("Content-Length"))
            return response, 0, PartInfo(total=total, version=_version(response.headers))
        if response.status == 206 and offset and _continues(response.headers, offset, known):
            total = known.total or _number(response.headers["Content-Range"].rpartition("/")[2])
            return response, offset, PartInfo(total=total, version=known.version)
        response.close()
        raise RangeError(f"HTTP {response.status}, which does not continue the part")

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        try:
            response: http.client.HTTPResponse = urllib.request.build_opener(SafeRedirects).open(
                request, timeout=self.patience.timeout
            )
            return response
        except urllib.error.HTTPError as error:
            error.close()
            status = f"HTTP {error.code} {first_line(error).partition(': ')[2] or error.reason}"
            if error.code in (408, 416, 425, 429) or error.code >= 500:
                kind = RangeError if error.code == 416 else CutError
                raise kind(status, _number(error.headers.get("Retry-After")) or 0) from error
            raise DownloadError(
                f"{self.target}: {self.archive.url} does not exist or is not accessible ({status}); look for a newer "
                "Captioner, or put the file there yourself"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise DownloadError(
                    f"{self.target}: {self.archive.url} cannot be trusted ({reason.verify_message}); check this "
                    "computer's date and certificates"
                ) from error
            detail = first_line(reason) if isinstance(reason, BaseException) else reason
            raise CutError(f"no connection: {detail}") from error

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self._hash_file(self.part, 0)

    def _new_hash(self) -> Any:
        return hashlib.new(self.archive.checksum.partition(":")[0] or "sha256")

    def _hash_file(self, path: Path, size: int) -> None:
        """Start the hash anew with the first ``size`` bytes of a file."""
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


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to an unprotected address."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, *rest: Any) -> Any:
        """Return the request that follows a redirect; ``rest`` is the message, the headers and the address."""
        _, headers, address = rest
        if req.type == "https" and not address.lower().startswith("https:"):
            raise urllib.error.HTTPError(req.full_url, code, f"leads from https to {address}", headers, fp)
        return super().redirect_request(req, fp, code, *rest)


def _blocks(response: http.client.HTTPResponse, done: int, total: int | None) -> Iterator[bytes]:
    """Yield the bytes as they arrive, from position ``done`` up to ``total``."""
    while total is None or done < total:
        try:
            block = response.read1(BLOCK if total is None else min(BLOCK, total - done))
        except (OSError, http.client.HTTPException) as error:
            raise CutError(f"the connection was cut after {done:,} bytes: {first_line(error)}") from error
        if not block:
            break
        done += len(block)
        yield block
    if total is not None and done < total:
        raise CutError(f"the connection was cut after {done:,} of {total:,} bytes")


def _continues(headers: Message, offset: int, known: PartInfo) -> bool:
    """Return whether a partial response (RFC 9110, section 14.4) continues the part at ``offset``."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    if (
        match is None
        or int(match[1]) != offset
        or (known.total is not None and match[2] not in ("*", str(known.total)))
    ):
        return False
    return known.version is None or _version(headers) in (None, known.version)


def _version(headers: Message) -> str | None:
    """Return the mark of a file's version: a strong ETag, or else the date.

    Weak ETags may not be used with ranges (RFC 9110, section 13.1.5).
    """
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None
