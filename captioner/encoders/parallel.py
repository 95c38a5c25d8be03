"""Encoding pictures side by side: on a CPU, one thread for each small batch instead of all threads for each layer.

Threads that share a layer wait for each other at its end, some sixty times a picture, and what they hand each other has
to leave the caches. Threads with pictures of their own do neither, and their caller can load and search meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

from captioner.data.loader import ImageBatch

T = TypeVar("T")

# Pictures in a batch of one thread: more than one shares the reading of weights, and few stay in its caches.
_CHUNK = 2


def encoded_at_once(batch_size: int, device: torch.device) -> int:
    """Return how many of a batch's pictures are encoded together: all on a GPU, on a CPU few in each thread."""
    return min(_CHUNK, batch_size) if device.type == "cpu" else batch_size


def encode_batches(
    encode: Callable[[Tensor], T], batches: Iterable[ImageBatch], *, ahead: int, device: torch.device
) -> Iterator[tuple[ImageBatch, T | None]]:
    """Yield each batch with what its pixels were encoded to, in order; ``None`` for a batch without pictures.

    On a CPU, batches are encoded side by side and ahead of the caller, each in one thread; a single batch has all
    threads to itself.

    Args:
        encode: called in inference mode, in any thread.
        batches: iterated lazily, in the caller's thread.
        ahead: batches that are read, encoded or waiting, beyond the one that the caller has.
        device: of the encoder.
    """

    def run(batch: ImageBatch) -> T | None:
        with torch.inference_mode():
            return encode(batch.pixels) if len(batch) else None

    incoming = iter(batches)
    first = list(islice(incoming, 2))
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores == 1 or len(first) < 2:
        for batch in chain(first, incoming):
            yield batch, run(batch)
        return
    incoming = chain(first, incoming)
    pending: deque[tuple[ImageBatch, Future[T | None]]] = deque()
    pool = _single_threads(cores)
    try:
        while True:
            pending.extend((batch, pool.submit(run, batch)) for batch in islice(incoming, ahead - len(pending)))
            if not pending:
                return
            batch, encoded = pending.popleft()
            yield batch, encoded.result()
    finally:  # also when the caller stops early
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch's operations in this thread use that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _single_threads(number: int) -> ThreadPoolExecutor:
    """Start threads in each of which torch's operations use that one thread alone."""
    before, started = torch.get_num_threads(), Barrier(number + 1)

    def begin() -> None:
        torch.get_num_threads()  # before its first question, a thread forgets what it was told
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(number, thread_name_prefix="captioner-encoder", initializer=begin)
    for _ in range(number):  # the pool starts a thread for each, as none is idle before all have started
        pool.submit(int)
    started.wait()
    # What a thread sets is its own, and also what threads that are started later begin with.
    torch.set_num_threads(before)
    return pool
