"""Encoding on a CPU with one thread per small batch instead of all threads per layer.

Threads that share a layer wait for each other at its end, some sixty times per image, and exchange data through shared
caches. Threads that encode different images do neither, and meanwhile the caller can load images and search.
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

# Images per thread: two share the reading of the weights, and their maps still fit in the thread's cache.
_CHUNK = 2


def encoded_at_once(batch_size: int, device: torch.device) -> int:
    """Return the number of images encoded together: the whole batch on a GPU, at most two per thread on a CPU."""
    return min(_CHUNK, batch_size) if device.type == "cpu" else batch_size


def encode_batches(
    encode: Callable[[Tensor], T], batches: Iterable[ImageBatch], *, ahead: int, device: torch.device
) -> Iterator[tuple[ImageBatch, T | None]]:
    """Yield each batch and its encoded pixels, in order; ``None`` for a batch without images.

    On a CPU, batches are encoded in parallel and ahead of the caller, with one thread each; a single batch is encoded
    with all threads.

    Args:
        encode: called in inference mode, in any thread.
        batches: iterated lazily, in the caller's thread.
        ahead: the number of batches to read ahead of the caller.
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
    """Let torch's operations in this thread use ``number`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _single_threads(number: int) -> ThreadPoolExecutor:
    """Start a pool of threads in which torch's operations are single-threaded."""
    default, started = torch.get_num_threads(), Barrier(number + 1)

    def begin() -> None:
        torch.get_num_threads()  # torch ignores set_num_threads in a thread before the first get_num_threads
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(number, thread_name_prefix="captioner-encoder", initializer=begin)
    for _ in range(number):  # the pool starts a thread per task, as none is idle before all have started
        pool.submit(int)
    started.wait()
    # set_num_threads in a thread also changes the default of threads started later.
    torch.set_num_threads(default)
    return pool
