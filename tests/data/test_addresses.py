"""Images at addresses in requests: from public servers only, within limits of time and size."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from captioner.data import addresses
from captioner.data.addresses import fetch_image, is_public
from captioner.errors import ImageError

IMAGE = b"\x89PNG image"


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path == "/page" else "image/png")
        self.end_headers()
        if self.path == "/slow":
            for _ in range(100):
                self.wfile.write(b".")
                time.sleep(0.05)
        self.wfile.write(IMAGE)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def public(port: int, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """Fetch from a public server, as which the site passes by the name ``site.example``."""
    there = {"site.example": "127.0.0.1", "rebound.example": "127.0.0.1", "inner.example": "192.168.0.1"}

    def look_up(host: str, port: int, **settings: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (there.get(host, host), port))]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(addresses, "_PORTS", (port,))
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    return lambda path, **settings: fetch_image(f"http://site.example:{port}{path}", public=True, **settings)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((address, True) for address in ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111")),
        *((address, False) for address in ("127.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "169.254.169.254")),
        *((address, False) for address in ("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "198.18.0.1")),
        *((address, False) for address in ("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1")),
        *((address, False) for address in ("::ffff:10.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "::7f00:1")),
        *((address, False) for address in ("2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1", "", "site.example")),
    ],
)
def test_only_internet_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1/", "the server is in a private network"),
        ("http://localhost/", "the server is in a private network"),
        ("http://[::1]/", "the server is in a private network"),
        ("http://0x7f000001/", "the server is in a private network"),
        ("http://2130706433/", "the server is in a private network"),
        ("http://169.254.169.254/latest/meta-data", "the server is in a private network"),
        ("https://[::ffff:127.0.0.1]/", "the server is in a private network"),
        ("http://127.0.0.1:22/", "port 22 is refused"),
        ("http://user:secret@127.0.0.1/", "cannot be fetched"),
        ("file:///etc/passwd", "unknown url type: file"),
        ("ftp://127.0.0.1/a.png", "unknown url type: ftp"),
        ("http://", "cannot be fetched"),
        ("http://[", "cannot be fetched"),
        ("http://a b/", "cannot be fetched"),
        ("http://a\r\nHost: b/", "cannot be fetched"),
    ],
)
def test_public_fetches_refuse_private_networks(address: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: pytest.fail("it connected"))
    with pytest.raises(ImageError, match=reason):
        fetch_image(address, public=True)


def test_public_fetches_use_no_proxy(public: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert public("/a.png") == IMAGE


def test_redirects_are_followed_to_public_servers_only(public: Callable[..., bytes], port: int) -> None:
    assert public("/to//a.png") == IMAGE
    for target in (
        f"http://inner.example:{port}/",
        "http://127.0.0.1:22/",
        "file:///etc/passwd",
        "ftp://site.example/",
    ):
        with pytest.raises(ImageError, match=r"private network|port 22|unknown url type|not allowed"):
            public(f"/to/{target}")
    with pytest.raises(ImageError, match="cannot be fetched"):
        public("/to/" * 12 + "/a.png")


def test_a_fetch_is_bounded(public: Callable[..., bytes]) -> None:
    assert public("/a.png", max_bytes=len(IMAGE)) == IMAGE
    with pytest.raises(ImageError, match="more than the 9 bytes"):
        public("/a.png", max_bytes=9)
    with pytest.raises(ImageError, match="text/html, not an image"):
        public("/page")
    began = time.monotonic()
    with pytest.raises(ImageError, match="took longer than"):
        public("/slow", seconds=0.3)
    assert time.monotonic() - began < 2


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "is_public", lambda address: True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(addresses, "_PORTS", (port,))
        for scheme in ("http", "https"):
            began = time.monotonic()
            with pytest.raises(ImageError, match="took longer than"):
                fetch_image(f"{scheme}://127.0.0.1:{port}/", public=True, seconds=0.3)
            assert time.monotonic() - began < 2
