"""Images are decoded within bounds of memory and time that their headers give."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from captioner.errors import ImageError
from captioner.web.lanes import Decoding, FullError, Lane
from tests.web.conftest import until
from tests.web.test_batching import grey

SMALL, LARGE = grey(0, (10, 10)), grey(0, (20, 20))


@pytest.fixture
def decoding() -> Any:
    made = Decoding(max_pixels=500, large=100, waiting=2)
    yield made
    made.close()


class Held:
    """Work that counts how many run at once, and waits."""

    def __init__(self) -> None:
        self.go, self.now, self.peak, self.lock = threading.Event(), 0, 0, threading.Lock()

    def __call__(self) -> str:
        with self.lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
        assert self.go.wait(10)
        with self.lock:
            self.now -= 1
        return "done"


def test_one_large_image_is_decoded_at_a_time_in_parallel_with_others(decoding: Decoding) -> None:
    large, small = Held(), Held()
    futures = []
    for _ in range(3):
        futures.append(decoding.submit(LARGE, large))
        until(lambda: large.now == 1 and not decoding._headers._jobs)
    futures += [decoding.submit(SMALL, small) for _ in range(5)]
    until(lambda: small.now == 2)
    small.go.set()
    assert [future.result(10) for future in futures[3:]] == ["done"] * 5
    large.go.set()
    assert [future.result(10) for future in futures[:3]] == ["done"] * 3
    assert (large.peak, small.peak) == (1, 2)


def test_too_many_large_images_are_refused_and_small_ones_are_not(decoding: Decoding) -> None:
    held = Held()
    futures: list[Future[Any]] = []
    for _ in range(4):
        futures.append(decoding.submit(LARGE, held))
        until(lambda: held.now == 1 and not decoding._headers._jobs)
    with pytest.raises(FullError, match="2 images as large as this one wait"):
        futures[3].result(10)
    assert decoding.submit(SMALL, lambda: 7).result(10) == 7
    held.go.set()
    assert futures[2].result(10) == "done"


def test_invalid_and_too_large_images_are_refused_before_they_wait(decoding: Decoding) -> None:
    held = Held()
    decoding.submit(LARGE, held)
    with pytest.raises(ImageError, match="known kind"):
        decoding.submit(b"no image", held).result(10)
    with pytest.raises(ImageError, match="above the limit of 500"):
        decoding.submit(grey(0, (30, 30)), held).result(10)
    held.go.set()


def test_a_cancelled_image_is_dropped_at_once(decoding: Decoding) -> None:
    held = Held()
    first = decoding.submit(LARGE, held)
    until(lambda: held.now == 1)
    gone = decoding.submit(LARGE, held)
    until(lambda: gone in decoding._alone._jobs)
    assert gone.cancel() and not decoding._alone._jobs
    held.go.set()
    assert first.result(10) == "done"


def test_the_smallest_job_runs_next_and_a_failure_affects_no_other() -> None:
    lane, held, order = Lane(1), Held(), []
    first = lane.submit(held)
    until(lambda: held.now == 1)
    answers: list[Future[None]] = [Future() for _ in range(4)]
    for answer, size in zip(answers, (5, 1, 5, 0), strict=True):
        lane.add(answer, lambda answer=answer, size=size: (order.append(size), answer.set_result(None)), size)
    held.go.set()
    assert first.result(10) == "done"
    for answer in answers:
        answer.result(10)
    assert order == [0, 1, 5, 5]
    with pytest.raises(ZeroDivisionError):
        lane.submit(lambda: 1 // 0).result(10)
    assert lane.submit(lambda: 1).result(10) == 1
    lane.close()


def test_a_closed_lane_takes_nothing() -> None:
    lane, held = Lane(1), Held()
    lane.submit(held)
    until(lambda: held.now == 1)
    waits = lane.submit(held)
    lane.close()
    with pytest.raises(CancelledError):
        waits.result(10)
    with pytest.raises(FullError, match="shutting down"):
        lane.submit(held)
    held.go.set()


def test_closing_returns_whether_an_image_is_still_being_decoded(decoding: Decoding) -> None:
    held = Held()
    decoding.submit(LARGE, held)
    until(lambda: held.now == 1)
    assert decoding.close(seconds=0.05) is False
    held.go.set()
    assert decoding.close(seconds=10) is True
