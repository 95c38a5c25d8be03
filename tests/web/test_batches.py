"""Requests share batches, and none waits for ever or for another's mistake."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest

from captioner.base import Captioner
from captioner.errors import ImageError
from captioner.web.batches import Batches, FullError, UnknownModelError
from tests.web.conftest import encoded


class Slow:
    """A captioner whose batches wait until they are let go; it remembers them."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.batches: list[list[bytes]] = []

    def stream(self, pictures: Sequence[bytes], **settings: Any) -> Iterator[Any]:
        self.batches.append(list(pictures))
        self.begun.release()
        assert self.go.acquire(timeout=10)
        for picture in pictures:
            if picture == b"crash":
                raise RuntimeError("out of memory")
            yield ImageError("<bytes>", "bad") if picture == b"bad" else picture.decode()


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def shared(slow: Slow) -> Iterator[Batches]:
    made = Batches(["one", "two"], lambda name: slow, size=3, waiting=5)  # type: ignore[arg-type, return-value]
    yield made
    slow.go.release(99)
    made.close()


def test_those_that_wait_are_the_next_batch_of_their_model(slow: Slow, shared: Batches) -> None:
    first = shared.submit(b"0")
    assert slow.begun.acquire(timeout=10)
    rest = [shared.submit(text, model) for text, model in ((b"1", "two"), (b"2", "one"), (b"bad", "two"), (b"4", None))]
    assert shared.waiting == 4
    slow.go.release(3)
    assert first.result(10) == "0" and [rest[i].result(10) for i in (0, 1, 3)] == ["1", "2", "4"]
    with pytest.raises(ImageError):
        rest[2].result(10)
    assert slow.batches == [[b"0"], [b"1", b"bad"], [b"2", b"4"]]


def test_a_batch_has_a_most_and_so_has_what_waits(slow: Slow, shared: Batches) -> None:
    shared.submit(b"0")
    assert slow.begun.acquire(timeout=10)
    waiting = [shared.submit(str(i).encode()) for i in range(1, 6)]
    with pytest.raises(FullError, match="5 pictures wait"):
        shared.submit(b"6")
    slow.go.release(3)
    assert [future.result(10) for future in waiting] == ["1", "2", "3", "4", "5"]
    assert [len(batch) for batch in slow.batches] == [1, 3, 2]


def test_a_failure_is_its_batchs_alone(slow: Slow, shared: Batches) -> None:
    slow.go.release(9)
    with pytest.raises(RuntimeError, match="out of memory"):
        shared.submit(b"crash").result(10)
    assert shared.submit(b"fine").result(10) == "fine"


def test_a_request_that_was_given_up_costs_nothing(slow: Slow, shared: Batches) -> None:
    first = shared.submit(b"0")
    assert slow.begun.acquire(timeout=10)
    gone, stays = shared.submit(b"gone"), shared.submit(b"stays")
    assert gone.cancel()
    slow.go.release(9)
    assert first.result(10) == "0" and stays.result(10) == "stays" and [b"gone"] not in slow.batches
    assert slow.batches == [[b"0"], [b"stays"]]


def test_after_closing_nothing_waits(slow: Slow) -> None:
    closing = Batches(["one"], lambda name: slow)  # type: ignore[arg-type, return-value]
    running = closing.submit(b"0")
    assert slow.begun.acquire(timeout=10)
    waits = closing.submit(b"1")
    thread = threading.Thread(target=closing.close)
    thread.start()
    with pytest.raises(CancelledError):
        waits.result(10)
    slow.go.release()
    thread.join(10)
    assert running.result(10) == "0"
    with pytest.raises(FullError, match="shutting down"):
        closing.submit(b"2")


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
        picture = encoded()
        captions = [batches.submit(picture, name).result(30) for name in ("two", "one", None, "two")]
        assert loaded == ["one", "two"] and len({caption.text for caption in captions}) == 1
        assert captions[0].text == captioner(picture).text
        with pytest.raises(ValueError, match="no such weights"):
            batches.submit(picture, "broken").result(30)
        with pytest.raises(UnknownModelError, match=r"Did you mean 'two'\? Take one of: one, two, broken"):
            batches.submit(picture, "tow")
    finally:
        batches.close()
