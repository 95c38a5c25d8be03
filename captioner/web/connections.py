"""Bounds what a connection may cost before it has sent a request, and after the answer.

uvicorn closes a connection that is idle after an answer, and nothing else: one that never sends a byte, or sends its
headers a byte at a time, or does not read, stays for ever, and its ``limit_concurrency`` only chooses the answer of a
request that has come. So :class:`Connection` extends the protocol that is uvicorn's own and has no other parts, h11.
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
"""Bytes that the headers of a request may have."""

_RESERVED = 256  # file handles for models, libraries, and connections that are accepted and not yet counted


class _Parser(h11.Connection):
    """Refuses bodies in tiny pieces, which cost as much as large ones: one client kept the others waiting for 2 s."""

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
    """A connection of uvicorn's that is closed when its client takes too long, or when others need its place.

    When there are too many, the one that has waited longest for its client makes room: for its request, or for it to
    read the answer. One whose request is worked on is never closed.

    Attributes:
        most: connections in all; one address may have half of them.
        idle: seconds in which a request's headers must be there, from the connection or the last answer on.
        patience: seconds in which its body must be there, and in which each piece of the answer must be read.
    """

    most: ClassVar[int] = 512
    idle: ClassVar[float] = 10.0
    patience: ClassVar[float] = 40.0

    _timer: asyncio.TimerHandle | None = None
    _waits: float | None = None  # for its client: the seconds that it may take
    _since = 0.0

    def __init__(self, config: Config, *arguments: Any, **settings: Any) -> None:
        super().__init__(config, *arguments, **settings)
        self.conn = _Parser(h11.SERVER, HEADERS)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and close one if there are too many."""
        super().connection_made(transport)
        self._watch()
        all_open = [one for one in self.connections if isinstance(one, Connection)]
        here = [one for one in all_open if one.client and self.client and one.client[0] == self.client[0]]
        crowd = here if 2 * len(here) > self.most else all_open if len(all_open) > self.most else []
        if crowd:
            waiting = [one for one in crowd if one is not self and one._waits]
            min(waiting, key=lambda one: one._since, default=self).end(503, "too many connections; try again in 2 s")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._set(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the client has sent."""
        self._safely(super().data_received, data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._safely(super().on_response_complete)
        self._watch()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Write again, as the client has read."""
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or close the connection if an answer has begun."""
        self._leave()
        self._safely(super().send_400_response, msg)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, as nothing came after the last answer."""
        self._safely(super().timeout_keep_alive_handler)

    def shutdown(self) -> None:
        """Close the connection, or let it have its answer first."""
        if self._waits:
            self.transport.abort()
        else:
            self._safely(super().shutdown)

    def end(self, status: int, reason: str) -> None:
        """Close the connection at once, with an answer if none has begun and, after a time limit, a request has."""
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
        """Let the application answer no more, as if the client were gone."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _watch(self) -> None:
        """Set the clock by what the connection waits for: its client, or an answer to come."""
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
        """Call a method of uvicorn's, which fails if the client breaks the protocol after the answer has begun."""
        try:
            method(*arguments)
        except h11.ProtocolError:
            self.transport.abort()


def protocol(most: int, **limits: float) -> type[Connection]:
    """Return the class of connections with these limits; see :class:`Connection`."""
    return type("Connection", (Connection,), {"most": most, **limits})


def room(wanted: int = Connection.most) -> int:
    """Return how many connections there may be, of those that are wanted, and raise the limit of file handles for them.

    A connection may hold two: its own, and that of a file it is sent.
    """
    try:
        import resource
    except ImportError:  # there is no such limit on Windows
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
    """Drops asyncio's traceback for a connection that could not be accepted; asyncio tries again a second later.

    asyncio logs it for each of the connections that wait, 5 MB a second. One line a minute is logged instead.
    """

    _last = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a message."""
        if "socket.accept() out of system resource" not in record.getMessage():
            return True
        if time.monotonic() - self._last < 60:
            return False
        self._last = time.monotonic()
        record.msg, record.args, record.exc_info = "no file handle is left for connections; raise ulimit -n", (), None
        return True
