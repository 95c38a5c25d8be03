from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi_offline", reason="the page's packages are not installed: pip install 'captioner[web]'")

from captioner.captioner import Captioner
from captioner.web.batching import Batches
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
    """Wait until something is so, and fail if it is not in time."""
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
def listening() -> Iterator[Callable[..., str]]:
    """Run an application on a free port, and return its address."""
    import uvicorn

    servers: list[tuple[Any, threading.Thread]] = []

    def start(app: Any, **settings: Any) -> str:
        config = uvicorn.Config(app, port=0, log_level="warning", lifespan="on", **settings)
        listener = config.bind_socket()
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)
