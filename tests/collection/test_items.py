"""Images at web addresses: fetched within bounds, and refused for a reason."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from captioner.collection import items
from captioner.collection.items import Item, items_of
from tests.collection.conftest import png

PAGES = {
    "/a.png": ("image/png", png(1)),
    "/odd": ("application/octet-stream", png(2)),
    "/page": ("text/html", b"<html>"),
    "/large.png": ("image/png", bytes(3000)),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.end_headers()
        elif self.path in PAGES:
            kind, data = PAGES[self.path]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(data)
        else:
            self.send_error(404)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_an_image_at_a_web_address(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, number in (("/a.png", 1), ("/odd", 2), ("/moved", 1)):
        assert list(items_of(site + path)) == [Item(site + path, png(number))]
    monkeypatch.setattr("captioner.collection.limits.MAX_IMAGE_BYTES", 2000)
    monkeypatch.setattr(items, "MAX_IMAGE_BYTES", 2000)
    for path, reason in (
        ("/page", "is text/html, not an image"),
        ("/gone.png", "cannot be fetched: the server answers 404 Not Found"),
        ("/large.png", "has more than the 2,000 bytes that are read"),
    ):
        (item,) = items_of(site + path)
        assert item.data is None and reason in item.error
    (item,) = items_of("http://127.0.0.1:9/a.png")
    assert "cannot be fetched" in item.error and "check the address and the network" in item.error
    (item,) = items_of(site + "/a.png", offline=True)
    assert "is an address, which is not read offline" in item.error


def test_a_name_with_two_slashes_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.zip").mkdir()
    (tmp_path / "a.zip" / "1.png").write_bytes(png(1))
    (item,) = items_of("a.zip//1.png")
    assert item.data == "a.zip//1.png" and item.stamp[0] == len(png(1))
