"""Blocks cross-site requests, unknown hosts and floods.

A page of another site can make a browser send requests to this server; the header ``Origin`` reveals them. With DNS
rebinding, a foreign host name that resolves to this machine, it could also read the responses; ``Host`` reveals that.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COMMON = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
}


def names_of(host: str, others: Collection[str] = ()) -> frozenset[str]:
    """Return the allowed host names of a server that listens at ``host``; addresses are always allowed."""
    machine = socket.gethostname().lower()
    return frozenset({"localhost", host.lower(), machine, f"{machine}.local", *(name.lower() for name in others)})


def is_local(client: str) -> bool:
    """Return whether a client address belongs to this machine."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


class Rate:
    """A rate limit per client: a token bucket that holds the tokens of a minute.

    Args:
        per_minute: tokens per minute; 0 means no limit.
        clock: returns the time in seconds.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._buckets: dict[str, tuple[float, float]] = {}  # remaining tokens, and when they were counted

    def take(self, client: str) -> float:
        """Take a token and return 0, or return the seconds until one is available."""
        if not self.per_minute:
            return 0.0
        now, speed = self._clock(), self.per_minute / 60
        if len(self._buckets) > 10_000:  # drop full buckets
            self._buckets = {
                name: (left, since)
                for name, (left, since) in self._buckets.items()
                if left + speed * (now - since) < 60 * speed
            }
        left, since = self._buckets.get(client, (float(self.per_minute), now))
        left = min(self.per_minute, left + speed * (now - since))
        if left < 1:
            self._buckets[client] = left, now
            return (1 - left) / speed
        self._buckets[client] = left - 1, now
        return 0.0


class Guard:
    """Middleware that checks ``Host`` and ``Origin`` of each request and adds security headers to each response.

    Args:
        app: the application.
        names: host names of this server; see :func:`names_of`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or reject it with a reason."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no web sockets

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _COMMON.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        await (refusal or self.app)(scope, receive, sending)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        name = _name(host)
        if not name:
            return JSONResponse(
                {"detail": f"this server is not called {host!r}; send its name or address as Host"}, 421
            )
        if not (name in self.names or _is_address(name)):
            return JSONResponse(
                {"detail": f"this server is not called {name!r}; start it with: captioner serve --allow-host {name}"},
                421,
            )
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return JSONResponse({"detail": f"requests from the pages of {origin} are refused; use the page at /"}, 403)
        return None


def _name(host: str) -> str:
    """Return the host of a ``Host`` header without its port; empty if malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    """Return the host and port of an ``Origin`` header; empty if malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
