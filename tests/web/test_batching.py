"""Requests share batches, and none waits forever or fails with another."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from PIL import Image

from captioner.caption import Caption
from captioner.captioner import Captioner
from captioner.data.loader import ImageBatch, load_pixels
from captioner.data.transform import Transform
from captioner.engines.engine import Engine
from captioner.errors import ImageError
from captioner.search.config import SearchConfig
from captioner.web.batching import Batches, UnknownModelError
from captioner.web.lanes import FullError
from tests.web.conftest import encoded, until

CRASH = 99


def grey(value: int, size: tuple[int, int] = (3, 2)) -> bytes:
    """Return an image's file, of one grey."""
    stream = io.BytesIO()
    Image.new("L", size, value).save(stream, "PNG")
    return stream.getvalue()


class Slow(Engine):
    """Waits with each batch until it may continue; remembers the batches, and captions an image by its grey."""

    transform = Transform(size=2, mean=(0, 0, 0), std=(1, 1, 1))
    search = SearchConfig()

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def for_attention(self, attention: str) -> Slow:
        return self

    def in_torch(self) -> None: ...

    def caption(self, batches: Iterable[ImageBatch], *arguments: Any, **settings: Any) -> Iterator[Any]:
        batches = list(batches)
        greys = [int(pixels.flat[0]) for batch in batches for pixels in batch.array]
        self.batches.append(greys)
        self.begun.release()
        assert self.go.acquire(timeout=10)
        if CRASH in greys:
            raise RuntimeError("out of memory")
        yield batches, [Caption(str(grey), [str(grey)], 0.0) for grey in greys]


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def shared(slow: Slow) -> Iterator[Batches]:
    made = Batches(["one", "two"], lambda name: Captioner(slow), size=3, waiting=5)
    yield made
    slow.go.release(99)
    made.close()


def decoded(batches: Batches, number: int) -> None:
    """Wait until so many images are decoded and wait for a batch."""
    until(lambda: len(batches._decoded) == number)


def test_those_that_wait_are_the_next_batch_of_their_model(slow: Slow, shared: Batches) -> None:
    first = shared.submit(grey(0))
    assert slow.begun.acquire(timeout=10)
    images = ((grey(1), "two"), (grey(2), "one"), (b"bad", "two"), (grey(4), None), (grey(5), "two"))
    rest = [shared.submit(image, model) for image, model in images]
    with pytest.raises(ImageError):
        rest[2].result(10)
    decoded(shared, 4)
    assert shared.waiting == 4
    slow.go.release(3)
    assert first.result(10).text == "0" and [rest[i].result(10).text for i in (0, 1, 3, 4)] == ["1", "2", "4", "5"]
    assert slow.batches == [[0], [1, 5], [2, 4]]


def test_batches_and_the_queue_have_a_maximum_size(slow: Slow, shared: Batches) -> None:
    shared.submit(grey(0))
    assert slow.begun.acquire(timeout=10)
    waiting = [shared.submit(grey(i)) for i in range(1, 6)]
    with pytest.raises(FullError, match="5 images wait"):
        shared.submit(grey(6))
    decoded(shared, 5)
    slow.go.release(3)
    assert [future.result(10).text for future in waiting] == ["1", "2", "3", "4", "5"]
    assert [len(batch) for batch in slow.batches] == [1, 3, 2]


def test_a_failure_affects_only_its_batch(slow: Slow, shared: Batches) -> None:
    slow.go.release(9)
    with pytest.raises(RuntimeError, match="out of memory"):
        shared.submit(grey(CRASH)).result(10)
    assert shared.submit(grey(1)).result(10).text == "1"


def test_a_cancelled_request_is_not_captioned(slow: Slow, shared: Batches) -> None:
    first = shared.submit(grey(0))
    assert slow.begun.acquire(timeout=10)
    gone, stays = shared.submit(grey(1)), shared.submit(grey(2))
    decoded(shared, 2)
    assert gone.cancel() and shared.waiting == 1
    slow.go.release(9)
    assert first.result(10).text == "0" and stays.result(10).text == "2"
    assert slow.batches == [[0], [2]]


def test_a_slow_image_delays_only_large_images(slow: Slow, shared: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    go, whole = threading.Event(), load_pixels
    monkeypatch.setattr("captioner.web.batching.load_pixels", lambda image, *rest: go.wait(10) and whole(image, *rest))
    large = [shared.submit(grey(value, (5000, 4000))) for value in range(2)]
    until(lambda: large[0] in shared._waiting.values() and not shared._decoding._alone._jobs.get(large[0]))
    monkeypatch.setattr("captioner.web.batching.load_pixels", whole)
    slow.go.release(9)
    assert shared.submit(grey(7)).result(10).text == "7"
    assert not large[0].done()
    assert large[1].cancel() and shared.waiting == 1
    go.set()
    assert large[0].result(10).text == "0" and slow.batches == [[7], [0]]


def test_after_closing_nothing_waits(slow: Slow) -> None:
    closing = Batches(["one"], lambda name: Captioner(slow))
    running = closing.submit(grey(0))
    assert slow.begun.acquire(timeout=10)
    waits = closing.submit(grey(1))
    thread = threading.Thread(target=closing.close)
    thread.start()
    with pytest.raises(CancelledError):
        waits.result(10)
    slow.go.release()
    thread.join(10)
    assert running.result(10).text == "0"
    with pytest.raises(FullError, match="shutting down"):
        closing.submit(grey(2))


def test_models_are_loaded_when_they_are_needed(captioner: Captioner) -> None:
    loaded: list[str] = []

    def load(name: str) -> Captioner:
        loaded.append(name)
        if name == "broken":
            raise ValueError("no such weights")
        return captioner

    batches = Batches(["one", "two", "broken"], load)
    try:
        assert batches.loaded == ("one",)
        image = encoded()
        captions = [batches.submit(image, name).result(30) for name in ("two", "one", None, "two")]
        assert loaded == ["one", "two"] and len({caption.text for caption in captions}) == 1
        assert captions[0].text == captioner(image).text
        with pytest.raises(ValueError, match="no such weights"):
            batches.submit(image, "broken").result(30)
        with pytest.raises(UnknownModelError, match=r"Did you mean 'two'\? Take one of: one, two, broken"):
            batches.submit(image, "tow")
    finally:
        batches.close()
