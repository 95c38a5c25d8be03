"""Decodes the images of all requests, a few at a time, with a separate lane for large ones.

The file size hardly predicts the cost of decoding: twelve WebP files of 2 kB took 4 GB when decoded at once. So the
header is read first, for the number of pixels. At most one large image and two others are decoded at a time, smallest
first, which bounds the memory: a slow image delays only images of its kind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from captioner.data.images import check_file
from captioner.errors import CaptionerError, ImageError
from captioner.machine.backend import return_freed_memory

T = TypeVar("T")

LARGE = 16_000_000
"""Images with more pixels are large; those of most phones have 12 million."""


class FullError(CaptionerError):
    """The queue is full."""


class Lane:
    """A thread pool that runs the smallest job first; its daemon threads, unlike an executor's, do not delay exit.

    Args:
        threads: number of threads.
        max_jobs: maximum jobs in the queue.
        after: called after each job.
    """

    def __init__(self, threads: int, *, max_jobs: int = 1024, after: Callable[[], None] | None = None) -> None:
        self._max_jobs, self._after = max_jobs, after
        self._jobs: dict[Future[Any], tuple[int, Callable[[], None]]] = {}  # size and job by answer
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name="captioner-lane", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue work and return a future of its result; see :meth:`add`."""
        answer: Future[T] = Future()
        self.add(answer, partial(settle, answer, work))
        return answer

    def add(self, answer: Future[Any], job: Callable[[], None], size: int = 0) -> None:
        """Queue a job; it is dropped when its answer is cancelled.

        Args:
            answer: future of the result.
            job: sets the answer.
            size: smaller jobs run first.

        Raises:
            FullError: the queue is full, or the lane is closed.
        """
        with self._changed:
            if self._closed:
                raise FullError("the server is shutting down")
            if len(self._jobs) >= self._max_jobs:
                raise FullError(f"{self._max_jobs} images as large as this one wait already")
            self._jobs[answer] = size, job
            self._changed.notify()
        answer.add_done_callback(self._drop)

    def close(self) -> None:
        """Drop the queue and end each thread after its current job; see :meth:`join`."""
        with self._changed:
            self._closed = True
            waiting = list(self._jobs)
            self._changed.notify_all()
        for answer in waiting:
            answer.cancel()

    def join(self, until: float) -> bool:
        """Wait for the threads until a time on the monotonic clock; return whether all have ended."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _drop(self, answer: Future[Any]) -> None:
        if answer.cancelled():
            with self._changed:
                self._jobs.pop(answer, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    return
                _, job = self._jobs.pop(min(self._jobs, key=lambda answer: self._jobs[answer][0]))
            job()
            del job  # frees its image
            if self._after is not None:
                self._after()


class Decoding:
    """Threads that decode images and draw figures; see the module.

    Args:
        max_pixels: a larger image is an error; see :func:`captioner.data.images.load_image`.
        large: images with more pixels use the lane for large ones.
        waiting: maximum large images in the queue.
    """

    def __init__(self, *, max_pixels: int | None = None, large: int = LARGE, waiting: int = 32) -> None:
        self._max_pixels, self._large = max_pixels, large
        self._headers, self._small = Lane(2), Lane(2)
        self._alone = Lane(1, max_jobs=waiting, after=return_freed_memory)
        self._drawing = Lane(2)

    def submit(self, image: bytes, work: Callable[[], T]) -> Future[T]:
        """Queue an image for decoding.

        Args:
            image: content of an image file.
            work: decodes it.

        Returns:
            A future of the result of ``work``, which can be cancelled until ``work`` is called. Its exception is an
            :class:`ImageError` if the image cannot be read, or a :class:`FullError` if too many large images wait.

        Raises:
            FullError: the lanes are closed.
        """
        answer: Future[T] = Future()
        self.add(answer, image, partial(settle, answer, work))
        return answer

    def draw(self, work: Callable[[], T]) -> Future[T]:
        """Queue work that draws decoded images; see :meth:`Lane.submit`."""
        return self._drawing.submit(work)

    def add(self, answer: Future[Any], image: bytes, job: Callable[[], None]) -> None:
        """Queue a job that decodes an image; see :meth:`submit` and :meth:`Lane.add`."""

        def sort() -> None:
            try:
                width, height = check_file(image, max_pixels=self._max_pixels)
                pixels = width * height
                (self._alone if pixels > self._large else self._small).add(answer, job, pixels)
            except Exception as error:
                fail(answer, error)

        self._headers.add(answer, sort)

    def close(self, seconds: float = 0.0) -> bool:
        """Drop the queues and end the threads; return whether they ended within ``seconds``."""
        lanes = (self._headers, self._small, self._alone, self._drawing)
        for lane in lanes:
            lane.close()
        until = time.monotonic() + seconds
        return all([lane.join(until) for lane in lanes])


def settle(answer: Future[T], work: Callable[[], T]) -> None:
    """Set the result or exception of ``work`` as the answer, unless it was cancelled."""
    if answer.set_running_or_notify_cancel():
        try:
            answer.set_result(work())
        except Exception as error:
            fail(answer, error)


def fail(answer: Future[Any], error: Exception) -> None:
    """Set an exception as the answer, unless it was cancelled."""
    if isinstance(error, ImageError):
        error = ImageError(error.source, error.reason)  # without the traceback, which would keep the image in memory
    if answer.running() or answer.set_running_or_notify_cancel():
        answer.set_exception(error)
