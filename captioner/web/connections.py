"""Time limits and a maximum number for connections.

uvicorn closes only connections that are idle after a response. A client that sends nothing, sends its headers byte by
byte, or does not read keeps its connection forever, and ``limit_concurrency`` counts only complete requests. So
:class:`Connection` extends uvicorn's pure-Python protocol, h11.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS = 16 * 1024
"""Maximum bytes of the headers of a request."""

_RESERVED = 256  # file handles for models, libraries, and accepted connections that are not yet counted


class _Parser(h11.Connection):
    """Rejects bodies in tiny chunks, which cost as much as large ones: one client delayed the others by 2 s."""

    _pieces = _bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > 1000 + self._bytes // 256:
                raise h11.RemoteProtocolError("the body comes in too many pieces")
        return event


class Connection(H11Protocol):
    """A uvicorn connection that is closed when its client is too slow or there are too many connections.

    With too many connections, the one that has waited longest for its client is closed. A connection whose request is
    being processed stays open.

    Attributes:
        max_open: maximum connections; one address may have half of them.
        idle: seconds for the headers of a request, counted from the connection or the last response.
        patience: seconds for its body, and for the client to read each piece of the response.
    """

    max_open: ClassVar[int] = 512
    idle: ClassVar[float] = 10.0
    patience: ClassVar[float] = 40.0

    _timer: asyncio.TimerHandle | None = None
    _waits: float | None = None  # time limit in seconds while waiting for the client
    _since = 0.0

    def __init__(self, config: Config, *arguments: Any, **settings: Any) -> None:
        super().__init__(config, *arguments, **settings)
        self.conn = _Parser(h11.SERVER, HEADERS)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close a connection if there are too many."""
        super().connection_made(transport)
        self._watch()
        all_open = [one for one in self.connections if isinstance(one, Connection)]
        here = [one for one in all_open if one.client and self.client and one.client[0] == self.client[0]]
        crowd = here if 2 * len(here) > self.max_open else all_open if len(all_open) > self.max_open else []
        if crowd:
            waiting = [one for one in crowd if one is not self and one._waits]
            min(waiting, key=lambda one: one._since, default=self).end(503, "too many connections; try again in 2 s")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._set(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process data from the client."""
        self._safely(super().data_received, data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._safely(super().on_response_complete)
        self._watch()

    def pause_writing(self) -> None:
        """Wait for the client to read the response."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Continue the response."""
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request, or close the connection if a response has begun."""
        self._leave()
        self._safely(super().send_400_response, msg)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection after an idle time."""
        self._safely(super().timeout_keep_alive_handler)

    def shutdown(self) -> None:
        """Close the connection, after its response if a request is being processed."""
        if self._waits:
            self.transport.abort()
        else:
            self._safely(super().shutdown)

    def end(self, status: int, reason: str) -> None:
        """Close the connection, with an error response unless one has begun or, at a timeout, no request has."""
        self._set(None)
        running = self.cycle is not None and not self.cycle.response_complete
        begun = running and self.cycle.response_started
        silent = status == 408 and not running and not self.conn.trailing_data[0]
        self._leave()
        self.connections.discard(self)
        if not (begun or silent or self.transport.get_write_buffer_size() or self.transport.is_closing()):
            body = json.dumps({"detail": reason}).encode()
            later = b"retry-after: 2\r\n" if status == 503 else b""
            self.transport.write(
                b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n%s"
                % (status, len(body), later, body)
            )
        self.transport.abort()

    def _leave(self) -> None:
        """Signal the application that the client has disconnected."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _watch(self) -> None:
        """Set the timer if the connection waits for its client."""
        cycle = self.cycle
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self._set(None)
        elif self.flow.write_paused or (cycle is not None and not cycle.response_complete and cycle.more_body):
            self._set(self.patience)
        elif cycle is None or cycle.response_complete:
            self._set(self.idle)
        else:
            self._set(None)

    def _set(self, seconds: float | None) -> None:
        if seconds == self._waits:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._waits, self._since = None, seconds, self.loop.time()
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self.end, 408, "the request did not arrive in time")

    def _safely(self, method: Callable[..., None], *arguments: Any) -> None:
        """Call a uvicorn method, which fails if the client breaks the protocol after the response has begun."""
        try:
            method(*arguments)
        except h11.ProtocolError:
            self.transport.abort()


def protocol(max_open: int, **limits: float) -> type[Connection]:
    """Return a subclass of :class:`Connection` with these limits."""
    return type("Connection", (Connection,), {"max_open": max_open, **limits})


def room(wanted: int = Connection.max_open) -> int:
    """Raise the limit of file handles if possible, and return how many of the wanted connections it allows.

    A connection may need two handles: its socket, and a file that it is sent.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < needed:
        with suppress(ValueError, OSError):
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(hard, needed), hard)
            )
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max((soft - _RESERVED) // 2, soft // 8))


class NoHandles(logging.Filter):
    """Replaces asyncio's tracebacks for connections that cannot be accepted by one line per minute.

    asyncio retries each second and logs a traceback for each waiting connection, 5 MB per second.
    """

    _last = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        if "socket.accept() out of system resource" not in record.getMessage():
            return True
        if time.monotonic() - self._last < 60:
            return False
        self._last = time.monotonic()
        record.msg, record.args, record.exc_info = "no file handle is left for connections; raise ulimit -n", (), None
        return True
