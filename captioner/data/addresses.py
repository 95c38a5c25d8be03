"""Fetching images at web addresses, with limits on size and time; for a server, only from the public internet."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import captioner
from captioner.data.names import MAX_IMAGE_BYTES
from captioner.errors import ImageError, first_line

_PATIENCE = 30  # seconds that a server may take for each step
_PORTS = (80, 443)  # of public servers
_GLOBAL = ipaddress.ip_network("2000::/3")  # the only IPv6 addresses that are assigned to the internet (RFC 4291)


def fetch_image(
    address: str, *, max_bytes: int = MAX_IMAGE_BYTES, seconds: float = 120.0, public: bool = False
) -> bytes:
    """Return the file at a web address.

    Args:
        address: begins with http:// or https://.
        max_bytes: maximum bytes.
        seconds: time limit for all of it, redirects included.
        public: fetch from ports 80 and 443 of public IP addresses only, without a proxy. Otherwise a client could make
            a server fetch files from the private network of the server. The same applies to redirects, and the
            connection goes to the address that was checked.

    Raises:
        ImageError: it cannot be fetched, is a page or a text, has too many bytes, or takes too long.
    """
    opened: list[socket.socket] = []
    opener = _public_opener(opened) if public else urllib.request.build_opener()
    end = time.monotonic() + seconds
    slow = ImageError(address, f"took longer than {seconds:.0f} seconds; download it first")
    watch = threading.Timer(seconds, _close, [opened])
    watch.daemon = True
    watch.start()
    try:
        request = urllib.request.Request(address, headers={"User-Agent": f"captioner/{captioner.__version__}"})
        with opener.open(request, timeout=min(seconds, _PATIENCE)) as response:
            kind = response.headers.get_content_type()
            if kind.partition("/")[0] not in ("image", "application", "binary"):
                raise ImageError(address, f"is {kind}, not an image; give the address of the image itself")
            parts, size = [], 0
            while size <= max_bytes and (part := response.read1(1 << 16)):
                parts.append(part)
                size += len(part)
                if time.monotonic() > end:
                    raise slow
            if size > max_bytes:
                raise ImageError(
                    address, f"has more than the {max_bytes:,} bytes that are read; save it as a smaller file"
                )
            if time.monotonic() > end:  # the timer closed the connection, which looks like the end of the file
                raise slow
            return b"".join(parts)
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} {error.reason}; check the address"
    except (OSError, ValueError, http.client.HTTPException) as error:
        if time.monotonic() > end:
            raise slow from None
        reason = f"{first_line(getattr(error, 'reason', error))}; check the address and the network"
    finally:
        watch.cancel()
    raise ImageError(address, f"cannot be fetched: {reason}")


def is_public(address: str) -> bool:
    """Return whether an IP address is public: neither private, nor reserved, nor a tunnel to such an address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and (found not in _GLOBAL or found.sixtofour or found.teredo):
        return False
    return found.is_global and not found.is_multicast


def _close(opened: list[socket.socket]) -> None:
    for each in opened:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _public_opener(opened: list[socket.socket]) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (_Redirects, urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor):
        opener.add_handler(handler())
    opener.add_handler(urllib.request.UnknownHandler())
    opener.add_handler(_Handler(opened))
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 5


class _Handler(urllib.request.AbstractHTTPHandler):
    """Opens addresses of http and https on public servers, and notes the sockets."""

    def __init__(self, opened: list[socket.socket]) -> None:
        super().__init__()
        self._opened = opened

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Connection, request, opened=self._opened)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Encrypted, request, opened=self._opened)  # type: ignore[arg-type]

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, *, opened: list[socket.socket], timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self._opened = opened

    def connect(self) -> None:
        self.sock = _connect(self.host, self.port, self.timeout or _PATIENCE, self._opened.append)


class _Encrypted(_Connection):
    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self._opened.append(self.sock)
        self.sock.do_handshake()


def _connect(host: str, port: int, seconds: float, note: Callable[[socket.socket], None]) -> socket.socket:
    """Connect to a public server.

    Raises:
        OSError: it is not public, or does not answer.
    """
    if port not in _PORTS:
        raise OSError(f"port {port} is refused, only {' and '.join(map(str, _PORTS))} are allowed")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not all(is_public(str(place[0])) for *_, place in found):
        raise OSError("the server is in a private network")
    error = OSError("the server has no address")
    for family, kind, protocol, _, place in found:
        connection = socket.socket(family, kind, protocol)
        note(connection)
        try:
            connection.settimeout(seconds)
            connection.connect(place)
            return connection
        except OSError as failure:
            connection.close()
            error = failure
    raise error
