"""Downloads of the catalogue's archives: resumed where they were cut, checked while they stream in, unpacked safely.

Beside the archive ``NAME.zip`` lies ``NAME.zip.part`` until it is whole, checked and on the disk. What is known of it
between runs (the address and version of the part, that the archive was checked, what was unpacked) is in the hidden
folder ``.captioner`` of the data folder, with a lock file that lets one run at a time work on an archive; the lock is
the system's and goes with its process, however that ends.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import random
import re
import ssl
import sys
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

import captioner
from captioner.data.download.catalog import Archive
from captioner.data.download.unpack import BLOCK, check_room, choose_members, is_member, size_of, write_member
from captioner.errors import DownloadError, first_line
from captioner.files import write_json

Progress = Callable[[str, str, int, "int | None"], None]
"""Is told the archive's path, what is being done to it ("waiting", "checking", "downloading", "unpacking"), bytes done and bytes in all."""


class _CutError(Exception):
    """A failure that may pass: a cut connection, a busy server, which may ask for a ``wait`` of some seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _StoppedError(Exception):
    """The run is ending, by an interrupt."""


@dataclass(frozen=True)
class Patience:
    """How long a download is tried again.

    Attributes:
        attempts: failures in a row, without a byte won, after which it is given up.
        first: seconds to wait after the first failure; doubled after each further one, and shortened at random by up to
            a half, so that many clients of a server that has come back do not all return at once.
        longest: seconds that one wait may last, also where a server asks for more.
        timeout: seconds of silence after which a connection counts as cut.
    """

    attempts: int = 6
    first: float = 1.0
    longest: float = 60.0
    timeout: float = 30.0

    def wait(self, failures: int, asked: float = 0.0) -> float:
        """Seconds to wait after so many failures in a row."""
        own = min(self.first * 2.0 ** (failures - 1), self.longest) * random.uniform(0.5, 1.0)
        return max(own, min(asked, self.longest))


@dataclass(frozen=True)
class Outcome:
    """What became of an archive.

    Attributes:
        fetched: bytes that came over the network.
        written: files that were unpacked now.
        present: files that had been unpacked before.
        error: why it failed; None if all is well.
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
    """Download and unpack archives, and give what became of each as soon as it is known; one that fails does not hold up the others.

    Args:
        archives: what to download; one that is there and right is not fetched again.
        folder: the folder of all data.
        members: patterns of the names of the members to unpack; all that the catalogue has a place for if empty.
        keep: keep the archives after unpacking.
        parallel: how many are downloaded at once.
        patience: how long each is tried again.
        progress: told of every step, from several threads.

    Raises:
        DownloadError: before anything is done, if the disk has no room for all of it.
    """
    root, stop = Path(folder), threading.Event()
    jobs = [
        _Job(archive, root, tuple(members), keep, patience or Patience(), progress or (lambda *step: None), stop)
        for archive in dict.fromkeys(archives)
    ]
    room = [job.room() for job in jobs]
    # If the archives are not kept, each is there together with its members only while it is being unpacked.
    both = sorted((min(pair) for pair in room), reverse=True)
    check_room(root, sum(max(pair) for pair in room) + sum(both if keep else both[:parallel]))
    with ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(job.run) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


class _Job:
    """One archive on its way."""

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
        self.patience, self.progress, self.stop = patience, progress, stop
        self.target = root / archive.path
        self.part = self.target.with_name(self.target.name + ".part")
        self.record = root / ".captioner" / (archive.path.replace("/", "-") + ".json")
        self.state: dict[str, Any] = {}
        self.hash = self._new_hash()
        self.hashed = 0  # bytes of the part that are in self.hash
        self.fetched = 0
        self.joined = False  # whether the part was put together from several answers

    def room(self) -> tuple[int, int]:
        """Bytes that are still needed: for the archive, for its members; of the members only a guess, none if a few are chosen."""
        self._load()
        if self._is_unpacked():
            return 0, 0
        there = size_of(self.target)
        size = self.archive.size or 0
        return (0 if there == size else max(0, size - size_of(self.part))), 0 if self.members else self.archive.unpacked

    def run(self) -> Outcome:
        """Do all that is to be done; never raises what can be told of the archive alone."""
        try:
            with self._locked():
                self._load()  # another run may have gone on with it meanwhile
                return self._run()
        except DownloadError as error:
            return Outcome(self.archive, self.fetched, error=error)
        except OSError as error:
            hint = (
                "; free some space and run the same command again"
                if error.errno in (errno.ENOSPC, errno.EDQUOT)
                else ""
            )
            failed = DownloadError(f"{error.filename or self.target}: {error.strerror or error}{hint}")
            return Outcome(self.archive, self.fetched, error=failed)
        except _StoppedError:
            return Outcome(
                self.archive,
                self.fetched,
                error=DownloadError(f"{self.target}: interrupted; the same command goes on where it stopped"),
            )

    def _run(self) -> Outcome:
        written = present = 0
        if self._is_unpacked():
            present = len(self.state["unpacked"]["files"])
        else:
            if not self._is_fetched():
                self._fetch()
            written, present = self._unpack()
        if not self.keep:
            self.target.unlink(missing_ok=True)
        return Outcome(self.archive, self.fetched, written, present)

    # What is known from before

    def _load(self) -> None:
        try:
            state = json.loads(self.record.read_bytes())
        except (OSError, ValueError):
            state = {}
        self.state = (
            state if isinstance(state, dict) and state.get("of") == [self.archive.url, self.archive.checksum] else {}
        )

    def _save(self, **changes: Any) -> None:
        self.state = {"of": [self.archive.url, self.archive.checksum], **self.state, **changes}
        write_json(self.record, self.state, indent=None)

    def _is_unpacked(self) -> bool:
        done = self.state.get("unpacked")
        if not done or done["members"] not in ([], list(self.members)):
            return False
        return all(size_of(self.root / name) == size for name, size in done["files"].items())

    def _is_fetched(self) -> bool:
        if not self.target.is_file():
            return False
        status = self.target.stat()
        if self.archive.size is not None and status.st_size != self.archive.size:
            return False
        if self.state.get("checked") == [status.st_size, status.st_mtime_ns]:
            return True
        self._hash_file(self.target, status.st_size)
        if self._wrong(self.target):
            return False
        self._save(checked=[status.st_size, status.st_mtime_ns])
        return True

    # Fetching

    def _fetch(self) -> None:
        """Bring the archive, whole and checked, to its place."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.hash, self.hashed = self._new_hash(), 0
        failures, best, restarted = 0, size_of(self.part), False
        while True:
            try:
                self._stream()
                wrong = self._wrong(self.part)
                if not wrong:
                    break
                self._discard()
                if restarted or not self.joined:
                    raise DownloadError(
                        f"{self.target}: what {self.archive.url} gives is not the known file ({wrong}); it was changed at its source or on its way: "
                        "try another network or a newer Captioner"
                    )
                restarted, self.joined, best = (
                    True,
                    False,
                    0,
                )  # perhaps an old part and a new file: once more, from the beginning
            except _CutError as error:
                size = size_of(self.part)
                failures = 1 if size > best else failures + 1
                best = max(best, size)
                if failures >= self.patience.attempts:
                    raise DownloadError(
                        f"{self.target}: {self.archive.url} could not be downloaded ({error}; tried {failures} times); check the network and run the "
                        "same command again: it goes on where it stopped"
                    ) from error
                self._pause(self.patience.wait(failures, error.wait))
        # The bytes are on the disk; should the new name be lost in a power cut, the part is whole and is taken up
        # again.
        os.replace(self.part, self.target)
        status = self.target.stat()
        self._save(part=None, checked=[status.st_size, status.st_mtime_ns])

    def _stream(self) -> None:
        """Ask for what is missing of the part, and write it there."""
        known = self.state.get("part") or {}
        offset, total, version = size_of(self.part), known.get("total"), known.get("version")
        if not known or not (version or self.archive.checksum) or offset > (total or offset):
            offset = 0  # nothing would tell whether its rest belongs to it
        if offset != self.hashed:
            self._hash_file(self.part, offset)
        if offset:
            self.joined = True
            if offset == total:
                return
        headers = {"User-Agent": f"captioner/{captioner.__version__}", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if version:
                headers["If-Range"] = version
        with self._open(urllib.request.Request(self.archive.url, headers=headers)) as response:
            if response.status == 200:
                offset, total, version = 0, _number(response.headers.get("Content-Length")), _version(response.headers)
            elif not (response.status == 206 and offset and _continues(response.headers, offset, total, version)):
                self._discard()
                raise _CutError(f"HTTP {response.status}, which does not go on where the part ends")
            total = total or _number(response.headers.get("Content-Range", "").rpartition("/")[2]) or self.archive.size
            if total is not None and self.archive.size not in (None, total):
                raise DownloadError(
                    f"{self.target}: {self.archive.url} has {total:,} bytes and not {self.archive.size:,}; it was changed at its source, or a login "
                    "page or proxy answers in its place: open the address in a browser"
                )
            if not offset:
                self.joined, self.hash, self.hashed = False, self._new_hash(), 0
            with open(self.part, "ab" if offset else "wb") as file:
                if not offset:
                    self._save(
                        part={"total": total, "version": version}
                    )  # after the old bytes went, before the new ones come
                self._receive(response, file, total)

    def _receive(self, response: http.client.HTTPResponse, file: IO[bytes], total: int | None) -> None:
        self._tell("downloading", self.hashed, total)
        try:
            while total is None or self.hashed < total:
                try:
                    block = response.read1(BLOCK if total is None else min(BLOCK, total - self.hashed))
                except (OSError, http.client.HTTPException) as error:
                    raise _CutError(
                        f"the connection was cut after {self.hashed:,} bytes: {first_line(error)}"
                    ) from error
                if not block:
                    break
                file.write(block)
                self.hash.update(block)
                self.hashed += len(block)
                self.fetched += len(block)
                self._tell("downloading", self.hashed, total)
        finally:
            file.flush()
        if total is not None and self.hashed < total:
            raise _CutError(f"the connection was cut after {self.hashed:,} of {total:,} bytes")
        os.fsync(file.fileno())

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        opener = urllib.request.build_opener(_SafeRedirects)
        try:
            response: http.client.HTTPResponse = opener.open(request, timeout=self.patience.timeout)
            return response
        except urllib.error.HTTPError as error:
            error.close()
            what = f"HTTP {error.code} {first_line(error).partition(': ')[2] or error.reason}"
            if error.code == 416:
                self._discard()
            if error.code in (408, 416, 425, 429) or error.code >= 500:
                raise _CutError(what, _number(error.headers.get("Retry-After")) or 0) from error
            raise DownloadError(
                f"{self.target}: {self.archive.url} is not there or not open to you ({what}); look for a newer Captioner, or put the file there yourself"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise DownloadError(
                    f"{self.target}: {self.archive.url} cannot be trusted ({reason.verify_message}); check this computer's date and certificates"
                ) from error
            raise _CutError(
                f"no connection: {first_line(reason) if isinstance(reason, BaseException) else reason}"
            ) from error

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.hash, self.hashed = self._new_hash(), 0

    # Checking

    def _new_hash(self) -> Any:
        return hashlib.new(self.archive.checksum.partition(":")[0] or "sha256")

    def _hash_file(self, path: Path, size: int) -> None:
        """Put the first ``size`` bytes of a file into the hash."""
        self.hash, self.hashed = self._new_hash(), 0
        if size:
            with open(path, "rb") as file:
                while self.hashed < size and (block := file.read(min(BLOCK, size - self.hashed))):
                    self.hash.update(block)
                    self.hashed += len(block)
                    self._tell("checking", self.hashed, size)

    def _wrong(self, path: Path) -> str:
        """What is wrong with a file that is wholly in the hash; empty if nothing is."""
        algorithm, _, expected = self.archive.checksum.partition(":")
        if expected:
            return "" if self.hash.hexdigest() == expected else f"{algorithm} {self.hash.hexdigest()}, not {expected}"
        try:
            with zipfile.ZipFile(path) as file:
                choose_members(file, (), limit=2 * self.archive.unpacked)
                bad = file.testzip()
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            return first_line(error)
        return f"its member {bad!r} is damaged" if bad else ""

    # Unpacking

    def _unpack(self) -> tuple[int, int]:
        """Unpack what is not there yet; gives how many files were written and how many were there."""
        written = 0
        try:
            with zipfile.ZipFile(self.target) as file:
                chosen = choose_members(file, self.archive.places, self.members, limit=2 * self.archive.unpacked)
                if not chosen:
                    first = ", ".join(file.namelist()[:3])
                    raise DownloadError(
                        f"{self.target}: none of its members is called {' or '.join(self.members) or 'as expected'}; the first: {first}"
                    )
                total, done = sum(info.file_size for info, _ in chosen), 0
                check_room(
                    self.root,
                    sum(info.file_size for info, name in chosen if size_of(self.root / name) != info.file_size),
                )
                for info, name in chosen:
                    path = self.root / name
                    if not is_member(path, info):
                        write_member(file, info, path, self._go_on)
                        written += 1
                    done += info.file_size
                    self._tell("unpacking", done, total)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise DownloadError(
                f"{self.target}: cannot be unpacked: {first_line(error)}; delete it and run the same command again"
            ) from error
        if sys.platform != "win32":
            os.sync()  # once, since a sync for each of a hundred thousand photos would take longer than all the rest
        files = {name: info.file_size for info, name in chosen}
        self._save(unpacked={"members": list(self.members), "files": files})
        return written, len(chosen) - written

    # Waiting and telling

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise _StoppedError

    def _tell(self, phase: str, done: int, total: int | None) -> None:
        self._go_on()
        self.progress(self.archive.path, phase, done, total)

    def _pause(self, seconds: float) -> None:
        self.stop.wait(seconds)
        self._go_on()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only one to work on the archive, among threads and processes."""
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with open(self.record.with_suffix(".lock"), "ab") as file:
            while not _lock(file):
                self._tell("waiting", 0, None)
                self._pause(0.2)
            yield  # closing the file lets go of the lock


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to an address that anybody on the way could answer for."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise urllib.error.HTTPError(req.full_url, code, f"leads from https to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _continues(headers: Message, offset: int, total: int | None, version: str | None) -> bool:
    """Whether a partial answer (RFC 9110, section 14.4) begins at ``offset`` of the file whose beginning is there."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    same = match is not None and int(match[1]) == offset and (total is None or match[2] in ("*", str(total)))
    return same and (version is None or _version(headers) in (None, version))


def _version(headers: Message) -> str | None:
    """What tells one version of a file from another: a strong ETag, or else the date; weak ETags may not be used with ranges (section 13.1.5)."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None


def _lock(file: IO[bytes]) -> bool:
    """Try to lock an open file for as long as it is open; says whether that worked."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
