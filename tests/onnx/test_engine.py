"""Loading, encoding and searching side by side on onnxruntime."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from captioner.data.loader import ImageBatch
from captioner.errors import CheckpointError
from captioner.onnx.engine import OnnxEngine
from captioner.search.config import SearchConfig


def batches(count: int) -> Iterator[ImageBatch]:
    """Yield batches of two images, whose pixels are the batch's number; every fourth is empty."""
    for number in range(count):
        size = 0 if number % 4 == 3 else 2
        pixels = np.full((size, 3, 2, 2), number, dtype=np.uint8)
        yield ImageBatch(pixels, ["x"] * size, list(range(size)), [(0, 0, 1, 1)] * size, [])


def captions(run: Any, some: Iterator[ImageBatch]) -> Iterator[tuple[list[ImageBatch], list[Any]]]:
    engine: Any = SimpleNamespace(caption_pixels=run, _threads=2)
    engine._side_by_side = partial(OnnxEngine._side_by_side, engine)
    return OnnxEngine.caption(engine, some, SearchConfig(), together=4)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_batches_keep_their_order_and_their_captions(count: int) -> None:
    def slow_at_first(pixels: Any, search: SearchConfig) -> list[int]:
        time.sleep(0.02 if int(pixels[0, 0, 0, 0]) % 3 == 0 else 0)
        return [int(pixels[0, 0, 0, 0])] * len(pixels)

    found = list(captions(slow_at_first, batches(count)))
    assert [len(batch) for some, _ in found for batch in some] == [len(batch) for batch in batches(count)]
    assert [made for _, made in found] == [[] if i % 4 == 3 else [i, i] for i in range(count)]


def test_batches_get_a_thread_each_and_a_single_batch_the_callers() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def run(pixels: Any, search: SearchConfig) -> list[str]:
        meeting.wait()  # passes only where two run at once
        return [threading.current_thread().name]

    found = [made for _, (made,) in captions(run, iter(list(batches(2))))]
    assert all(name.startswith("captioner-engine") for name in found)
    alone = captions(lambda pixels, search: [threading.current_thread()], batches(1))
    assert [made for _, made in alone] == [[threading.main_thread()]]


def test_it_reads_few_batches_ahead_and_stops_with_its_caller() -> None:
    drawn = 0

    def endless() -> Iterator[ImageBatch]:
        nonlocal drawn
        while True:
            drawn += 1
            yield next(batches(1))

    stream = captions(lambda pixels, search: [0], endless())
    for used in range(1, 30):
        next(stream)
        assert drawn <= used + 4
    before = threading.active_count()
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() < before


def test_an_error_arises_in_its_place() -> None:
    def fail(pixels: Any, search: SearchConfig) -> list[int]:
        if int(pixels[0, 0, 0, 0]) == 2:
            raise CheckpointError("the second graph")
        return [0, 0]

    stream = captions(fail, batches(20))
    next(stream), next(stream)
    with pytest.raises(CheckpointError, match="the second graph"):
        next(stream)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("captioner-engine")]


@pytest.mark.parametrize(("batch_size", "share"), [(1, 1), (2, 1), (3, 2), (8, 4), (32, 16), (100, 16)])
def test_the_images_of_a_batch_are_shared_among_the_cores(batch_size: int, share: int) -> None:
    assert OnnxEngine.encoded_at_once(SimpleNamespace(_threads=2), batch_size) == share  # type: ignore[arg-type]
