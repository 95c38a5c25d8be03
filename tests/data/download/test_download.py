"""Downloads from a server with the usual faults."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from captioner.data.download import Outcome, Patience, download
from captioner.data.download.catalog import Archive
from captioner.data.download.unpack import choose_members
from captioner.errors import DownloadError

QUICK = Patience(attempts=4, first=0.01, longest=0.05, timeout=5.0)
NOISE = random.Random(0).randbytes(300_000)
MEMBERS = {"photos/a.jpg": NOISE[:200_000], "photos/deep/b.jpg": NOISE[200_000:], "notes.txt": b"not requested"}


@dataclass(frozen=True)
class Answer:
    """An answer of the server, correct except for these settings."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True  # honours Range
    conditions: bool = True  # honours If-Range
    versions: bool = True  # sends an ETag
    cut: int | None = None  # bytes after which it hangs up
    hold: bool = False  # keeps the connection open in silence instead of hanging up
    length: int | None = None  # the declared length of its body


class Server:
    """Serves ``files``; ``script`` answers the next requests, ``usual`` the others."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: list[Answer] = []
        self.usual = Answer()
        self.requests: list[dict[str, str]] = []
        self.held, self.release = threading.Event(), threading.Event()
        self.busy = self.busiest = 0
        self.delay = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer.busy += 1
                outer.busiest = max(outer.busiest, outer.busy)
                try:
                    time.sleep(outer.delay)
                    outer.answer(self)
                except OSError:
                    pass
                finally:
                    outer.busy -= 1

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()

    @property
    def ranges(self) -> list[str | None]:
        return [request.get("Range") for request in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(dict(handler.headers))
        answer = self.script.pop(0) if self.script else self.usual
        data = self.files.get(handler.path[1:])
        if answer.status or data is None:
            handler.send_response(answer.status or 404)
            for name, value in answer.headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            return
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        fresh = not answer.conditions or handler.headers.get("If-Range", etag) == etag
        is_partial = wanted is not None and answer.ranges and fresh
        start = int(wanted[1]) if wanted and is_partial else 0
        if is_partial and start >= len(data):
            handler.send_response(416)
            handler.end_headers()
            return
        body = data[start:]
        handler.send_response(206 if is_partial else 200)
        handler.send_header("Content-Length", str(answer.length or len(body)))
        if is_partial:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if answer.versions:
            handler.send_header("ETag", etag)
        handler.end_headers()
        handler.wfile.write(body[: answer.cut])
        if answer.hold:
            self.held.set()
            self.release.wait(20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    # A test should not flush all disks of the machine.
    monkeypatch.setattr(os, "sync", lambda: None, raising=False)
    running = Server()
    yield running
    running.close()


def zip_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return stream.getvalue()


def archive_of(server: Server, data: bytes, name: str = "set.zip", **changes: Any) -> Archive:
    """Put a file on the server and return the archive that describes it."""
    server.files[name] = data
    given = {"checksum": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data), "unpacked": 400_000}
    return Archive(server.url(name), f"set/{name}", **{"places": (("photos/*", "set"),), **given, **changes})


def run(folder: Path, *archives: Archive, patience: Patience = QUICK, **options: Any) -> list[Outcome]:
    return sorted(download(archives, folder, patience=patience, **options), key=lambda outcome: outcome.archive.path)


def run_one(folder: Path, archive: Archive, **options: Any) -> Outcome:
    (outcome,) = run(folder, archive, **options)
    return outcome


def interrupt(server: Server, folder: Path, archive: Archive, **options: Any) -> None:
    """A run that receives 100,000 bytes and gives up."""
    server.script = [Answer(cut=100_000, **options)] + [Answer(cut=0, **options)] * (QUICK.attempts - 1)
    assert run_one(folder, archive).error is not None


def error_of(outcome: Outcome) -> str:
    assert outcome.error is not None
    message = str(outcome.error)
    assert "\n" not in message
    return message


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file except the records of the downloads."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".captioner" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


DATA = zip_of(MEMBERS)
WHOLE = {
    "set/set.zip": DATA,
    "set/photos/a.jpg": MEMBERS["photos/a.jpg"],
    "set/photos/deep/b.jpg": MEMBERS["photos/deep/b.jpg"],
}


def test_an_archive_is_unpacked_in_its_place_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    archive = archive_of(server, DATA)
    assert run_one(tmp_path, archive) == Outcome(archive, fetched=len(DATA), written=2)
    assert files_in(tmp_path) == WHOLE
    assert run_one(tmp_path, archive) == Outcome(archive, present=2)
    assert len(server.requests) == 1


def test_a_file_without_places_is_kept_as_it_is(server: Server, tmp_path: Path) -> None:
    digest = hashlib.sha512(NOISE).hexdigest()
    archive = archive_of(server, NOISE, "tool.tgz", places=(), unpacked=0, checksum=f"sha512:{digest}")
    interrupt(server, tmp_path, archive)
    assert run_one(tmp_path, archive) == Outcome(archive, fetched=len(NOISE) - 100_000)
    assert files_in(tmp_path) == {"set/tool.tgz": NOISE}
    assert run_one(tmp_path, archive) == Outcome(archive)


def test_nothing_is_downloaded_before_the_iteration_starts(server: Server, tmp_path: Path) -> None:
    waiting = download([archive_of(server, DATA)], tmp_path)
    time.sleep(0.05)
    assert not server.requests
    waiting.close()
    assert not any(tmp_path.iterdir())


def test_progress_is_reported(server: Server, tmp_path: Path) -> None:
    steps: list[tuple[str, str, int, int | None]] = []
    server.script = [Answer(cut=100_000)]
    run_one(tmp_path, archive_of(server, DATA), progress=lambda *step: steps.append(step))
    assert {step[0] for step in steps} == {"set/set.zip"}
    fetched = [step[2] for step in steps if step[1] == "downloading"]
    assert fetched == sorted(fetched) and fetched[0] == 0 and fetched[-1] == len(DATA)
    assert [step[2:] for step in steps if step[1] == "unpacking"][-1] == (300_000, 300_000)


# Connections


def test_a_cut_download_continues_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.script = [Answer(cut=100_000), Answer(cut=50_000)]
    outcome = run_one(tmp_path, archive_of(server, DATA))
    assert outcome.error is None and outcome.fetched == len(DATA)
    assert files_in(tmp_path) == WHOLE
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert server.requests[1]["If-Range"] == f'"{hashlib.sha256(DATA).hexdigest()}"'


def test_a_download_that_advances_is_never_given_up(server: Server, tmp_path: Path) -> None:
    server.script = [Answer(cut=30_000)] * (3 * QUICK.attempts - 3)
    assert run_one(tmp_path, archive_of(server, DATA)).error is None
    assert len(server.requests) == 3 * QUICK.attempts - 2


def test_a_download_that_does_not_advance_is_given_up_and_can_be_resumed(server: Server, tmp_path: Path) -> None:
    archive = archive_of(server, DATA)
    server.script, server.usual = [Answer(cut=100_000)], Answer(cut=0)
    message = error_of(run_one(tmp_path, archive))
    assert str(tmp_path / "set" / "set.zip") in message
    assert archive.url in message and "run the same command again" in message
    assert len(server.requests) == QUICK.attempts
    assert files_in(tmp_path) == {"set/set.zip.part": DATA[:100_000]}
    server.usual = Answer()
    assert run_one(tmp_path, archive) == Outcome(archive, fetched=len(DATA) - 100_000, written=2)
    assert files_in(tmp_path) == WHOLE


def test_a_silent_connection_counts_as_cut(server: Server, tmp_path: Path) -> None:
    server.script = [Answer(cut=100_000, hold=True)]
    outcome = run_one(tmp_path, archive_of(server, DATA), patience=Patience(4, 0.01, 0.05, timeout=0.3))
    assert outcome.error is None and server.ranges == [None, "bytes=100000-"]


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/set.zip"
    message = error_of(run_one(tmp_path, Archive(url, "set/set.zip", "", None, 0, (("*", "set"),))))
    assert url in message and "no connection" in message and "check the network" in message
    assert not files_in(tmp_path)


def test_a_busy_server_is_retried(server: Server, tmp_path: Path) -> None:
    server.script = [Answer(status=503, headers={"Retry-After": "3600"}), Answer(status=500), Answer(status=429)]
    began = time.monotonic()
    assert run_one(tmp_path, archive_of(server, DATA)).error is None
    assert len(server.requests) == 4 and time.monotonic() - began < 5
    server.usual = Answer(status=503)
    assert "HTTP 503" in error_of(run_one(tmp_path / "other", archive_of(server, DATA)))


def test_a_missing_file_is_not_retried_and_the_others_continue(server: Server, tmp_path: Path) -> None:
    good, gone = archive_of(server, DATA), archive_of(server, DATA, "gone.zip")
    del server.files["gone.zip"]
    failed, done = run(tmp_path, gone, good)
    assert done.error is None and files_in(tmp_path) == WHOLE
    message = error_of(failed)
    assert str(tmp_path / "set" / "gone.zip") in message and gone.url in message and "HTTP 404 Not Found" in message
    assert len(server.requests) == 2


def test_redirects(server: Server, tmp_path: Path) -> None:
    archive = archive_of(server, DATA)
    server.script = [
        Answer(status=302, headers={"Location": "/set.zip"}),
        Answer(cut=100_000),
        Answer(status=302, headers={"Location": "/set.zip"}),
    ]
    assert run_one(tmp_path, archive).error is None
    assert server.ranges == [None, None, "bytes=100000-", "bytes=100000-"]
    server.usual = Answer(status=302, headers={"Location": "/set.zip"})
    message = error_of(run_one(tmp_path / "other", archive))
    assert "redirect" in message and archive.url in message


def test_redirects_do_not_leave_https() -> None:
    from captioner.data.download.request import SafeRedirects

    request = urllib.request.Request("https://example.org/set.zip")
    follow = SafeRedirects().redirect_request
    headers: Any = Message()
    assert follow(request, io.BytesIO(), 302, "Found", headers, "https://example.com/") is not None
    with pytest.raises(urllib.error.HTTPError, match="leads from https"):
        follow(request, io.BytesIO(), 302, "Found", headers, "http://example.com/")


def test_waits_grow_and_are_limited() -> None:
    patience = Patience(first=1, longest=10)
    for failures, most in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (50, 10)):
        waits = {patience.wait(failures) for _ in range(20)}
        assert len(waits) > 1 and most / 2 <= min(waits) and max(waits) <= most
    assert patience.wait(1, requested=7) == 7 and patience.wait(1, requested=3600) == 10


def test_parallel_downloads_are_limited(server: Server, tmp_path: Path) -> None:
    server.delay = 0.05
    archives = [archive_of(server, DATA, f"{number}.zip", places=(("photos/*", str(number)),)) for number in range(6)]
    assert all(outcome.error is None for outcome in run(tmp_path, *archives, parallel=2))
    assert server.busiest == 2


# Ranges and versions

OTHER = zip_of({name: data[::-1] for name, data in MEMBERS.items()})


def test_a_server_that_ignores_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.script, server.usual = [Answer(cut=100_000)], Answer(ranges=False)
    archive = archive_of(server, DATA)
    assert run_one(tmp_path, archive) == Outcome(archive, fetched=len(DATA) + 100_000, written=2)
    assert files_in(tmp_path) == WHOLE


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize(
    "usual",
    [Answer(), Answer(conditions=False), Answer(versions=False, conditions=False)],
    ids=["honest", "ignores If-Range", "sends no version"],
)
def test_versions_of_a_file_are_not_mixed(server: Server, tmp_path: Path, usual: Answer, checked: bool) -> None:
    sum_of = f"sha256:{hashlib.sha256(OTHER).hexdigest()}" if checked else ""
    archive = archive_of(server, DATA, checksum=sum_of, size=None)
    interrupt(server, tmp_path, archive, versions=usual.versions)
    # Without a version and a checksum, the part cannot be resumed.
    assert files_in(tmp_path) == {"set/set.zip.part": DATA[:100_000] if usual.versions or checked else b""}
    server.files["set.zip"] = OTHER
    server.usual = usual
    outcome = run_one(tmp_path, archive)
    assert outcome.error is None and files_in(tmp_path)["set/set.zip"] == OTHER
    if usual.versions:
        assert outcome.fetched == len(OTHER), "the header shows it, before the rest of the new file is fetched in vain"


def test_a_part_without_a_record_is_not_continued(server: Server, tmp_path: Path) -> None:
    archive = archive_of(server, DATA)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.zip.part").write_bytes(b"who knows what")
    assert run_one(tmp_path, archive).error is None
    assert server.ranges == [None] and files_in(tmp_path) == WHOLE


def test_a_whole_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    """A run was killed after the last byte and before the file got its name."""
    archive = archive_of(server, DATA)
    interrupt(server, tmp_path, archive)
    (tmp_path / "set" / "set.zip.part").write_bytes(DATA)
    before = len(server.requests)
    assert run_one(tmp_path, archive) == Outcome(archive, written=2)
    assert len(server.requests) == before and files_in(tmp_path) == WHOLE


def test_a_damaged_part_is_detected_and_fetched_anew(server: Server, tmp_path: Path) -> None:
    archive = archive_of(server, DATA)
    interrupt(server, tmp_path, archive)
    (tmp_path / "set" / "set.zip.part").write_bytes(bytes(100_000))  # as a power cut leaves it
    assert run_one(tmp_path, archive).error is None
    assert server.ranges[-2:] == ["bytes=100000-", None] and files_in(tmp_path) == WHOLE


# Wrong bytes


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_wrong_bytes_are_refused(server: Server, tmp_path: Path, algorithm: str) -> None:
    archive = archive_of(server, DATA, checksum=f"{algorithm}:{hashlib.new(algorithm, DATA).hexdigest()}")
    assert run_one(tmp_path / "good", archive).error is None
    server.files["set.zip"] = DATA[:-1] + b"?"
    message = error_of(run_one(tmp_path / "bad", archive))
    assert str(tmp_path / "bad" / "set" / "set.zip") in message
    assert archive.url in message and archive.checksum.partition(":")[2] in message
    assert not files_in(tmp_path / "bad")
    assert len(server.requests) == 2, "it came in one piece, so a second request would give the same"


@pytest.mark.parametrize("length", [len(DATA) - 1, len(DATA) + 1, 1234])
def test_another_size_than_the_known_one_is_refused_before_the_download(
    server: Server, tmp_path: Path, length: int
) -> None:
    server.usual = Answer(length=length)
    message = error_of(run_one(tmp_path, archive_of(server, DATA)))
    assert f"has {length:,} bytes instead of {len(DATA):,}" in message
    assert len(server.requests) == 1 and not files_in(tmp_path)


@pytest.mark.parametrize("length", [len(DATA) - 1, len(DATA) + 1])
def test_a_wrong_content_length_of_a_file_of_unknown_size(server: Server, tmp_path: Path, length: int) -> None:
    server.usual = Answer(length=length)
    assert run_one(tmp_path, archive_of(server, DATA, size=None)).error is not None
    assert "set/set.zip" not in files_in(tmp_path)


def test_without_a_checksum_size_and_crcs_are_checked(server: Server, tmp_path: Path) -> None:
    assert run_one(tmp_path / "good", archive_of(server, DATA, checksum="")).error is None
    assert files_in(tmp_path / "good") == WHOLE
    at = DATA.index(NOISE[:100]) + 50
    damaged = DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]
    for wrong in (damaged, DATA[:-30] + bytes(30), b"<html>please log in</html>"):
        message = error_of(run_one(tmp_path / "bad", archive_of(server, wrong, checksum="")))
        assert "did not deliver the expected file" in message
        assert not files_in(tmp_path / "bad")


def test_an_existing_archive_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    archive = archive_of(server, DATA)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.zip").write_bytes(DATA)
    assert run_one(tmp_path, archive) == Outcome(archive, written=2)
    assert not server.requests
    (tmp_path / "set" / "set.zip").write_bytes(DATA[:-1] + b"?")
    (tmp_path / "set" / "photos" / "a.jpg").unlink()
    assert run_one(tmp_path, archive) == Outcome(archive, fetched=len(DATA), written=1, present=1)
    assert files_in(tmp_path) == WHOLE


# Room


def test_free_space_is_checked_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_of(server, DATA, unpacked=300_000)
    free = [0]
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[0]))
    need = len(DATA) + 300_000
    free[0] = need - 1
    with pytest.raises(DownloadError, match="free some space"):
        run(tmp_path / "not" / "there", archive)
    assert not server.requests and not files_in(tmp_path)
    free[0] = need
    assert run_one(tmp_path, archive).error is None
    free[0] = 0
    assert run_one(tmp_path, archive).error is None, "nothing more is needed"


def test_members_larger_than_the_free_space_are_not_unpacked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(server, DATA, unpacked=200_000)  # a wrong guess
    before = len(DATA) + 200_000
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=299_999 if server.requests else before))
    assert "are needed" in error_of(run_one(tmp_path, archive))
    assert files_in(tmp_path) == {"set/set.zip": DATA}


def test_a_full_disk_keeps_the_files_written(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_of(server, DATA)
    plain = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("a.jpg"):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        plain(source, target)

    monkeypatch.setattr(os, "replace", full)
    message = error_of(run_one(tmp_path, archive))
    assert "a.jpg: cannot be written, the disk is full" in message and "free some space" in message
    monkeypatch.setattr(os, "replace", plain)
    assert run_one(tmp_path, archive) == Outcome(archive, written=2)
    assert files_in(tmp_path) == WHOLE and len(server.requests) == 1


# Unpacking


def test_unpacking_continues_where_it_stopped(server: Server, tmp_path: Path) -> None:
    archive = archive_of(server, DATA)
    run_one(tmp_path, archive)
    image = tmp_path / "set" / "photos" / "a.jpg"
    image.write_bytes(image.read_bytes()[:-5])
    assert run_one(tmp_path, archive) == Outcome(archive, written=1, present=1)
    (tmp_path / ".captioner" / "set-set.zip.json").unlink()
    image.write_bytes(bytes(200_000))  # of the right size, as a power cut leaves it
    (tmp_path / "set" / "photos" / "a.jpg.part").write_bytes(b"half")
    assert run_one(tmp_path, archive) == Outcome(archive, written=1, present=1)
    assert files_in(tmp_path) == WHOLE and len(server.requests) == 1


@pytest.mark.parametrize(
    "damage",
    [
        *("null", "[" * 100_000, "{", '{"of": 3}'),
        *('{"of": OF, "unpacked": 3}', '{"of": OF, "unpacked": {"members": []}}', '{"of": OF, "checked": "x"}'),
        '{"of": OF, "part": [1]}',
    ],
)
def test_a_damaged_record_is_none(server: Server, tmp_path: Path, damage: str) -> None:
    archive = archive_of(server, DATA)
    run_one(tmp_path, archive)
    record = tmp_path / ".captioner" / "set-set.zip.json"
    record.write_text(damage.replace("OF", json.dumps(json.loads(record.read_text())["of"])))
    assert run_one(tmp_path, archive) == Outcome(archive, present=2)
    assert files_in(tmp_path) == WHOLE and len(server.requests) == 1


def test_a_deleted_archive_is_not_needed_again(server: Server, tmp_path: Path) -> None:
    archive = archive_of(server, DATA)
    assert run_one(tmp_path, archive, keep=False).written == 2
    without = {name: data for name, data in WHOLE.items() if not name.endswith(".zip")}
    assert files_in(tmp_path) == without
    assert run_one(tmp_path, archive, keep=False) == Outcome(archive, present=2)
    assert len(server.requests) == 1
    (tmp_path / "set" / "photos" / "a.jpg").unlink()
    assert run_one(tmp_path, archive, keep=False).written == 1
    assert files_in(tmp_path) == without and len(server.requests) == 2


def test_only_the_requested_members_are_unpacked(server: Server, tmp_path: Path) -> None:
    archive = archive_of(server, DATA)
    assert run_one(tmp_path, archive, members=["*/deep/*"]).written == 1
    assert set(files_in(tmp_path)) == {"set/set.zip", "set/photos/deep/b.jpg"}
    assert "none of its members is called *.gif" in error_of(run_one(tmp_path, archive, members=["*.gif"]))
    assert run_one(tmp_path, archive) == Outcome(archive, written=1, present=1)
    assert files_in(tmp_path) == WHOLE and len(server.requests) == 1


def _special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "member",
    [
        *("../evil.jpg", "photos/../../evil.jpg", "/evil.jpg", "photos//evil.jpg", "photos/./evil.jpg"),
        *("photos\\..\\..\\evil.jpg", "C:/evil.jpg", "PHOTOS/A.JPG"),
        *(_special("photos/link.jpg", stat.S_IFLNK), _special("photos/pipe", stat.S_IFIFO)),
    ],
    ids=lambda member: getattr(member, "filename", member),
)
def test_an_archive_with_an_unsafe_member_is_refused(
    server: Server, tmp_path: Path, member: str | zipfile.ZipInfo
) -> None:
    stream = io.BytesIO(DATA)
    with zipfile.ZipFile(stream, "a") as file:
        file.writestr(member, b"/etc/passwd")
    outcome = run_one(tmp_path / "data", archive_of(server, stream.getvalue(), places=(("*", "set"),)))
    assert "nothing was unpacked" in error_of(outcome)
    assert set(files_in(tmp_path)) == {"data/set/set.zip"}


def test_a_zip_bomb_is_refused(server: Server, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("photos/zeros.jpg", bytes(2_000_000))
    data = stream.getvalue()
    assert len(data) < 10_000
    for checksum in ({}, {"checksum": ""}):
        assert run_one(tmp_path, archive_of(server, data, unpacked=999_999, **checksum)).error is not None
        assert "set/photos/zeros.jpg" not in files_in(tmp_path)
    assert run_one(tmp_path, archive_of(server, data, unpacked=1_000_000)).error is None
    with zipfile.ZipFile(stream) as file:
        file.infolist()[0].file_size = 1_000  # a header that lies
        assert choose_members(file, (("*", "set"),), limit=1_000)
        with pytest.raises(zipfile.BadZipFile, match="CRC"):
            file.read("photos/zeros.jpg")


# Several runs


def test_two_runs_at_once_share_one_download(server: Server, tmp_path: Path) -> None:
    server.delay = 0.1
    archive = archive_of(server, DATA)
    phases: set[str] = set()
    with ThreadPoolExecutor(3) as pool:
        work = partial(run_one, tmp_path, archive, progress=lambda path, phase, done, total: phases.add(phase))
        outcomes = [future.result() for future in [pool.submit(work) for _ in range(3)]]
    assert sorted(outcome.fetched for outcome in outcomes) == [0, 0, len(DATA)]
    assert "waiting" in phases and len(server.requests) == 1
    assert files_in(tmp_path) == WHOLE


def test_leaving_early_stops_the_downloads(server: Server, tmp_path: Path) -> None:
    slow = archive_of(server, DATA, "slow.zip", places=(("*", "slow"),))
    server.script = [Answer(cut=100_000, hold=True)]
    patience = Patience(attempts=1000, first=0.01, longest=0.01, timeout=0.3)
    running = download([slow, archive_of(server, DATA)], tmp_path, parallel=2, patience=patience)
    server.usual = Answer(cut=0)
    threading.Timer(0.5, lambda: server.files.pop("set.zip")).start()
    next(running)
    running.close()
    before = len(server.requests)
    time.sleep(0.1)
    assert len(server.requests) == before
    assert "slow/set.zip" not in files_in(tmp_path)


CHILD = """
import sys
from captioner.data.download.catalog import Archive
from captioner.data.download import download
archive = Archive(sys.argv[1], "set/set.zip", sys.argv[2], int(sys.argv[3]), 400_000, (("photos/*", "set"),))
print([str(outcome.error) for outcome in download([archive], sys.argv[4])])
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL exists on POSIX only")
def test_a_killed_run_is_resumed(server: Server, tmp_path: Path, repository: Path) -> None:
    archive = archive_of(server, DATA)
    server.script = [Answer(cut=200_000, hold=True)]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, archive.url, archive.checksum, str(archive.size), str(tmp_path)], cwd=repository
    )
    try:
        assert server.held.wait(20)
        part = tmp_path / "set" / "set.zip.part"
        for _ in range(200):
            if part.exists() and part.stat().st_size > 150_000:
                break
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
    kept = part.stat().st_size  # except for what was still in the killed program's memory
    assert 150_000 < kept <= 200_000 and files_in(tmp_path) == {"set/set.zip.part": DATA[:kept]}
    assert run_one(tmp_path, archive) == Outcome(archive, fetched=len(DATA) - kept, written=2)
    assert server.ranges == [None, f"bytes={kept}-"] and files_in(tmp_path) == WHOLE
