"""Blocks cross-site requests, unknown hosts, requests without the token, and floods.

A page of another site can make a browser send requests to this server; the header ``Origin`` reveals them. With DNS
rebinding, a foreign host name that resolves to this machine, it could also read the responses; ``Host`` reveals that.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
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


@dataclass(frozen=True)
class Admission:
    """Who is let in.

    Attributes:
        names: host names of this server; see :func:`names_of`.
        origins: other sites whose pages may use the API, for example ``https://example.org``; ``*`` for all.
        token: that a request for a caption, a figure or the measurements must carry as ``Authorization: Bearer
            TOKEN``; "" for none. The page, the state and the description of the API need none.
    """

    names: Collection[str] = field(default_factory=lambda: names_of("localhost"))
    origins: Collection[str] = ()
    token: str = ""


class Guard:
    """Middleware that checks ``Host``, ``Origin`` and the token of each request and adds headers to each response.

    Args:
        app: the application.
        admission: who is let in.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self.app, self.admission = app, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or reject it with a reason."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no web sockets

        given = Headers(scope=scope)
        granted = self._granted(given.get("origin"))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in (_COMMON | granted).items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if scope["method"] == "HEAD":  # a GET, of whose answer uvicorn leaves the body out
            scope = {**scope, "method": "GET"}
        refusal = self._refusal(given) or self._preflight(scope, granted) or self._unauthorised(scope, given)
        await (refusal or self.app)(scope, receive, sending)

    def _granted(self, origin: str | None) -> dict[str, str]:
        """Return the headers that let a page of an allowed site read the response; none for other sites."""
        if origin is None or not {origin.lower(), "*"} & {each.lower().rstrip("/") for each in self.admission.origins}:
            return {}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": "retry-after, content-disposition",
            "cross-origin-resource-policy": "cross-origin",
            "vary": "origin",
        }

    def _preflight(self, scope: Scope, granted: dict[str, str]) -> Response | None:
        """Answer a CORS preflight request from a page of an allowed site."""
        if scope["method"] != "OPTIONS" or not granted:
            return None
        allowed = {
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": "authorization, content-type",
            "access-control-max-age": "600",
        }
        return Response(status_code=204, headers=allowed)

    def _unauthorised(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        token, path = self.admission.token, scope["path"].removeprefix(scope.get("root_path", ""))
        given = headers.get("authorization", "").removeprefix("Bearer ")
        is_open = scope["method"] in ("GET", "HEAD") and path != "/metrics"
        if not token or is_open or hmac.compare_digest(given.encode("latin-1"), token.encode()):
            return None
        return JSONResponse(
            {"detail": "this server needs its token: send the header Authorization: Bearer TOKEN"},
            401,
            headers={"www-authenticate": "Bearer"},
        )

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        name = _name(host)
        if not name:
            return JSONResponse(
                {"detail": f"this server is not called {host!r}; send its name or address as Host"}, 421
            )
        if not (name in self.admission.names or _is_address(name)):
            return JSONResponse(
                {"detail": f"this server is not called {name!r}; start it with: captioner serve --allow-host {name}"},
                421,
            )
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower() and not self._granted(origin):
            return JSONResponse(
                {
                    "detail": f"requests from the pages of {origin} are refused; use the page at /, or start the "
                    f"server with: captioner serve --allow-origin {origin}"
                },
                403,
            )
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
