"""Connections to a real server: clients that never send, send too slowly or never read do not block others."""

from __future__ import annotations

import gc
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest
import uvicorn

from captioner.captioner import Captioner
from captioner.web.app import create_app
from captioner.web.batching import Batches
from captioner.web.connections import Connection, NoHandles, protocol, room
from captioner.web.upload import Upload
from tests.web.conftest import until
from tests.web.test_batching import Slow, grey

HEAD = b"POST /caption HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def shared(slow: Slow) -> Iterator[Batches]:
    made = Batches(["one"], lambda name: Captioner(slow), size=2)
    yield made
    slow.go.release(999)
    made.close()


@pytest.fixture
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Refuse errors in the log of a server, until it has stopped."""
    yield
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert not [record for record in records if record.exc_info or record.levelno >= logging.ERROR]


@pytest.fixture
def connect(no_errors: None, shared: Batches, listening: Callable[..., str]) -> Iterator[Callable[[], socket.socket]]:
    """Connect to a server with small limits; it may not log any error."""
    app = create_app(shared, max_bytes=3_000_000, rate=0, max_held=5_000_000)
    settings = {"http": protocol(20, idle=0.3, patience=0.6), "ws": "none", "loop": "asyncio", "log_config": None}
    address = httpx.URL(listening(app, **settings))
    with ExitStack() as opened:

        def call(window: int | None = None) -> socket.socket:
            one = opened.enter_context(socket.socket())
            one.settimeout(10)
            if window:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            one.connect((address.host, address.port))
            return one

        yield call


def answer(connection: socket.socket) -> bytes:
    """Return all bytes until the server closes the connection."""
    received = b""
    try:
        while part := connection.recv(1 << 16):
            received += part
    except ConnectionResetError:
        pass
    return received


def send(connection: socket.socket, content: bytes) -> None:
    """Send data that the server may not accept."""
    with suppress(OSError):
        connection.sendall(content)


def ask(connection: socket.socket, image: bytes, headers: bytes = b"Connection: close\r\n") -> None:
    connection.sendall(HEAD + headers + b"Content-Length: %d\r\n\r\n" % len(image) + image)


def status(received: bytes) -> int:
    return int(received.split(b" ", 2)[1]) if received else 0


def healthy(connect: Callable[[], socket.socket]) -> bool:
    one = connect()
    one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return status(answer(one)) == 200


def test_head_is_get_without_the_body(connect: Callable[[], socket.socket]) -> None:
    one, other = connect(), connect()
    for connection, method in ((one, b"HEAD"), (other, b"GET")):
        connection.sendall(method + b" /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    (head, _, body), (expected, _, content) = (answer(each).partition(b"\r\n\r\n") for each in (one, other))
    assert status(head) == 200 and not body and content
    assert b"content-length: %d" % len(content) in head and b"content-length: %d" % len(content) in expected


def test_idle_connections_leave_room_for_others(connect: Callable[[], socket.socket]) -> None:
    idle = [connect() for _ in range(60)]
    assert healthy(connect)
    # One address may have half of the connections; the oldest were closed.
    assert all(status(answer(one)) == 503 for one in idle[:40])


@pytest.mark.parametrize("start", [b"", b"GET / HT", HEAD + b"X-Long: ", HEAD + b"Content-Length: 9\r\n\r\nab"])
def test_a_request_that_comes_a_byte_at_a_time_is_given_up(connect: Callable[[], socket.socket], start: bytes) -> None:
    one, began = connect(), time.monotonic()
    one.sendall(start)
    one.settimeout(0.1)
    received = b""
    while time.monotonic() - began < 5:
        try:
            if start:
                one.sendall(b"y" if b"Length" not in start else b"")
            received = one.recv(1000)
            break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    assert 0.2 < time.monotonic() - began < 3
    assert status(received) == (408 if start else 0)
    assert healthy(connect)


def test_an_answer_that_nobody_reads_is_dropped(
    connect: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    end = Connection.end
    monkeypatch.setattr(Connection, "end", lambda one, status, reason: (ended.append(status), end(one, status, reason)))
    one = connect(1 << 16)
    for _ in range(20):  # in a pipeline; 30 MB
        one.sendall(b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
    until(lambda: ended)
    assert healthy(connect)


def test_an_image_whose_client_is_gone_is_never_captioned(
    connect: Callable[[], socket.socket], shared: Batches, slow: Slow
) -> None:
    first, gone, stays = connect(), connect(), connect()
    ask(first, grey(1))
    assert slow.begun.acquire(timeout=10)
    ask(gone, grey(2))
    until(lambda: shared.waiting == 1)
    gone.close()
    until(lambda: shared.waiting == 0)
    ask(stays, grey(3))
    until(lambda: len(shared._decoded) == 1)
    slow.go.release(9)
    assert status(answer(stays)) == 200
    assert slow.batches == [[1], [3]]


def test_images_in_flight_have_a_budget_which_is_given_back(
    connect: Callable[[], socket.socket], shared: Batches, slow: Slow
) -> None:
    image = grey(1) + bytes(2_000_000)
    held = [connect() for _ in range(2)]
    for one in held:
        ask(one, image)
    until(lambda: shared.waiting + sum(map(len, slow.batches)) >= 2)  # they may share a batch
    for kind in (b"Content-Length: %d\r\n\r\n" % len(image), b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(image)):
        another = connect()
        another.sendall(HEAD + b"Connection: close\r\n" + kind)
        threading.Thread(target=send, args=(another, image), daemon=True).start()
        refused = answer(another)
        assert status(refused) == 503 and b"retry-after: 2" in refused and b"as many images" in refused
    slow.go.release(9)
    assert [status(answer(one)) for one in held] == [200, 200]
    again = connect()
    ask(again, image)
    assert status(answer(again)) == 200


@pytest.mark.parametrize("image", [b"no image" * 100, grey(1)])
def test_nothing_keeps_an_image_that_was_answered(
    connect: Callable[[], socket.socket], slow: Slow, image: bytes
) -> None:
    gc.collect()
    gc.disable()  # what only the collector finds stays for minutes
    try:
        slow.go.release(9)
        for _ in range(3):
            one = connect()
            ask(one, image)
            assert status(answer(one)) in (200, 422)
        until(lambda: not [one for one in gc.get_objects() if type(one) is Upload])
    finally:
        gc.enable()


ODD: dict[str, tuple[bytes, set[int]]] = {
    "tiny chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000, {400}),
    "two lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", {400}),
    "a length and chunks": (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "an unknown encoding": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", {501, 400}),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n", {400}),
    "an endless length": (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", {400, 413}),
    "a bad chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {400}),
    "a bad chunk after the answer": (
        b"POST /none HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n" * 2 + b"zz\r\n\r\n",
        {404, 400},
    ),
    "headers without end": (HEAD + b"X: " + b"y" * 400_000, {400, 408}),
    "many headers": (HEAD + b"".join(b"X-%d: y\r\n" % i for i in range(40_000)) + b"\r\n", {400}),
    "no headers": (b"GET / HTTP/1.1\r\n\r\n", {400}),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00" * 9, {400}),
    "an old client": (b"GET /health HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", {200}),
    "options": (b"OPTIONS /caption HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", {405}),
    "a web socket": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", {200, 404}),
    "another protocol": (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", {200}),
    "a proxy": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n", {421}),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_requests_are_answered_and_closed(connect: Callable[[], socket.socket], name: str) -> None:
    request, statuses = ODD[name]
    one = connect()
    send(one, request)
    assert status(answer(one)) in statuses
    assert healthy(connect)


def test_a_client_may_wait_for_100_continue(connect: Callable[[], socket.socket], slow: Slow) -> None:
    slow.go.release(9)
    one, image = connect(), grey(1)
    one.sendall(HEAD + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(image))
    assert one.recv(1000).startswith(b"HTTP/1.1 100")
    one.sendall(image)
    assert status(answer(one)) == 200


def test_pipelined_images_get_their_answers_in_order(connect: Callable[[], socket.socket], slow: Slow) -> None:
    slow.go.release(9)
    one = connect()
    for value in (1, 2):
        ask(one, grey(value), b"")
    ask(one, grey(3))
    assert re.findall(rb'"caption":"(\d)', answer(one)) == [b"1", b"2", b"3"]


def test_an_image_that_waits_too_long_is_given_up(shared: Batches, slow: Slow, listening: Callable[..., str]) -> None:
    address = listening(create_app(shared, rate=0, seconds=0.2))
    answer = httpx.post(f"{address}/caption", content=grey(1))
    assert answer.status_code == 503 and "has waited" in answer.json()["detail"] and answer.headers["retry-after"]
    assert httpx.post(f"{address}/caption", content=grey(2)).status_code == 503 and shared.waiting == 0
    slow.go.release(9)
    until(lambda: httpx.post(f"{address}/caption", content=grey(3)).status_code == 200)
    assert [2] not in slow.batches


def test_a_server_that_is_stopped_answers_those_that_wait(
    shared: Batches, slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    config = uvicorn.Config(
        create_app(shared, rate=0), port=0, http=protocol(20), timeout_graceful_shutdown=1, log_config=None
    )
    server, listener = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    with ExitStack() as opened:
        waits, half, idle = (
            opened.enter_context(socket.create_connection(listener.getsockname(), timeout=10)) for _ in range(3)
        )
        ask(waits, grey(1))
        half.sendall(HEAD)
        assert slow.begun.acquire(timeout=10)
        server.should_exit = True
        assert answer(half) == answer(idle) == b""
        assert status(answer(waits)) == 503
        slow.go.release(9)
        thread.join(10)
    assert not thread.is_alive()
    assert not [record for record in caplog.get_records("call") if record.exc_info]


def test_there_are_fewer_connections_than_file_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    now = [1024, 1024]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, value: now.__setitem__(slice(None), value))
    assert room() == 384  # two handles for each, and 256 for the rest
    now[:] = [1024, resource.RLIM_INFINITY]
    assert room() == 512 and now[0] == 1280
    now[:] = [64, 64]
    assert room() == 8
    now[:] = [100_000, 100_000]
    assert room() == 512 and now[0] == 100_000


def test_a_lack_of_file_handles_is_one_line_a_minute() -> None:
    allowed = NoHandles()
    failure = (OSError, OSError(24, "Too many open files"), None)
    lines = [
        logging.LogRecord("asyncio", logging.ERROR, "", 0, text, (), failure)
        for text in ("socket.accept() out of system resource\nsocket: x", "another") * 2
    ]
    assert [bool(allowed.filter(line)) for line in lines] == [True, True, False, True]
    assert lines[0].exc_info is None and "ulimit" in lines[0].getMessage() and lines[1].exc_info
