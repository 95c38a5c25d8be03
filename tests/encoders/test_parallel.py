"""Encoding side by side gives what encoding one after the other gives, and leaves torch's threads as they were."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from captioner.data.loader import ImageBatch
from captioner.encoders.parallel import encode_batches, threads

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with threads(2):
        yield
        assert torch.get_num_threads() == 2


def batches(count: int) -> Iterator[ImageBatch]:
    """Yield batches of two images, whose pixels are the batch's number; every fourth is empty."""
    for number in range(count):
        size = 0 if number % 4 == 3 else 2
        pixels = torch.full((size, 3, 2, 2), number, dtype=torch.uint8)
        yield ImageBatch(pixels.numpy(), ["x"] * size, list(range(size)), [(0, 0, 1, 1)] * size, [])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
@pytest.mark.parametrize("ahead", [1, 2, 8])
def test_batches_keep_their_order_and_their_memories(count: int, ahead: int) -> None:
    def slow_at_first(pixels: Tensor) -> int:
        time.sleep(0.02 if int(pixels[0, 0, 0, 0]) % 3 == 0 else 0)
        assert torch.is_inference_mode_enabled()
        return int(pixels[0, 0, 0, 0])

    found = list(encode_batches(slow_at_first, batches(count), ahead=ahead, device=CPU))
    assert [len(batch) for batch, _ in found] == [len(batch) for batch in batches(count)]
    assert [encoded for _, encoded in found] == [None if i % 4 == 3 else i for i in range(count)]


def test_batches_get_one_thread_each_and_a_single_batch_all() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def encode(pixels: Tensor) -> tuple[str, int]:
        meeting.wait()  # passes only where two encode at once
        return threading.current_thread().name, torch.get_num_threads()

    found = [encoded for _, encoded in encode_batches(encode, list(batches(3))[:2], ahead=4, device=CPU)]
    assert all(encoded is not None and encoded[0].startswith("captioner-encoder") for encoded in found)
    assert [encoded and encoded[1] for encoded in found] == [1, 1]

    def alone(pixels: Tensor) -> tuple[bool, int]:
        return threading.current_thread() is threading.main_thread(), torch.get_num_threads()

    ((_, single),) = encode_batches(alone, batches(1), ahead=4, device=CPU)
    assert single == (True, 2)
    started: list[int] = []
    later = threading.Thread(target=lambda: started.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert started == [2], "threads of others were limited as well"


def test_it_reads_at_most_ahead_batches_and_stops_with_its_caller() -> None:
    drawn = 0

    def endless() -> Iterator[ImageBatch]:
        nonlocal drawn
        while True:
            drawn += 1
            yield next(batches(1))

    stream = encode_batches(lambda pixels: None, endless(), ahead=3, device=CPU)
    for used in range(1, 30):
        next(stream)
        assert drawn <= used + 3
    stream.close()  # type: ignore[attr-defined]
    assert not [one for one in threading.enumerate() if one.name.startswith("captioner-encoder")]


def test_an_error_reaches_the_caller() -> None:
    def fail(pixels: Tensor) -> None:
        raise MemoryError("too large")

    with pytest.raises(MemoryError, match="too large"):
        list(encode_batches(fail, batches(5), ahead=3, device=CPU))
    assert not [one for one in threading.enumerate() if one.name.startswith("captioner-encoder")]
