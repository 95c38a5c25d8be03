from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi_offline", reason="the page's packages are not installed: pip install 'captioner[web]'")

from captioner.captioner import Captioner
from captioner.web.app import create_app
from captioner.web.batching import Batches
from tests.browser import launched
from tests.model.test_checkpoint import tiny_model


@pytest.fixture(scope="session")
def captioner() -> Captioner:
    return Captioner.from_model(tiny_model(), device="cpu")


def encoded(kind: str = "JPEG", size: tuple[int, int] = (80, 60), seed: int = 0, **settings: Any) -> bytes:
    """Return an image's file."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **settings)
    return stream.getvalue()


def until(happens: Callable[[], object], seconds: float = 10) -> None:
    """Wait until a condition holds, and fail if it does not in time."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def batches(captioner: Captioner) -> Iterator[Batches]:
    """Batches of a model under two names."""
    made = Batches(["first", "second"], lambda name: captioner, max_pixels=2_000_000)
    yield made
    made.close()


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Run an application on a free port, and return its address."""
    import uvicorn

    def briefly(seconds: float) -> Coroutine[Any, Any, None]:
        return asyncio.sleep(min(seconds, 0.005))

    # A server checks every 0.1 s whether to stop, and then waits for 0.1 s.
    monkeypatch.setattr("uvicorn.server.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": briefly}))
    servers: list[tuple[Any, threading.Thread]] = []

    def start(app: Any, **settings: Any) -> str:
        config = uvicorn.Config(app, port=0, log_level="warning", lifespan="on", **settings)
        listener = config.bind_socket()
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.002)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched(*CAMERA) as started:
        yield started


@pytest.fixture(scope="module")
def others() -> Captioner:
    """A model whose captions differ from those of the first."""
    model = tiny_model()
    model.decoder.output.bias.data.roll(1)
    return Captioner.from_model(model, device="cpu", width=1, min_words=4)


@pytest.fixture
def address(captioner: Captioner, others: Captioner, listening: Callable[..., str]) -> str:
    models = {"first": captioner, "second": others}
    return listening(create_app(Batches(list(models), models.__getitem__), max_bytes=200_000))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("=dog.jpg", "cat.png", "notes.txt", "large.png")]
    for path, content in zip(paths, (encoded(), encoded("PNG"), b"hello", encoded("PNG", (400, 400))), strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture
def show(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Open the page; an error in its script or a request to elsewhere fails the test."""
    problems: list[str] = []
    contexts = []

    def call(**settings: Any) -> Any:
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: None if "with a status of" in line.text else problems.append(line.text))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((address, "data:", f"blob:{address}")) else problems.append(request.url)
            ),
        )
        page.goto(address)
        return page

    yield call
    for context in contexts:
        context.close()
    assert not problems


def explorers(page: Any, count: int, kind: str = "") -> Any:
    """Wait for a number of captioned images."""
    found = page.locator(f".explorer{kind}")
    found.nth(count - 1).wait_for()
    assert found.count() == count
    return found
