"""Decodes the images of all requests, few at a time, and large ones apart from the others.

What an image costs to decode is not in its bytes: twelve WebP files of 2 kB took 4 GB when they were decoded as
they came. Its header has its pixels, so it is read first. At any time one large image and two others are decoded, which
bounds the memory, the smallest first. So an image that takes long holds up others of its size, but no ordinary image.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from captioner.backend import return_freed_memory
from captioner.data.images import check_file
from captioner.errors import CaptionerError, ImageError

T = TypeVar("T")

LARGE = 16_000_000
"""Pixels beyond which an image is large; most phones' images have 12 million."""


class FullError(CaptionerError):
    """So many images wait that another one would wait too long."""


class Lane:
    """A few threads that do jobs, the smallest first; they do not keep the program from ending, as an executor's would.

    Args:
        threads: how many jobs are done at once.
        most: jobs that may wait.
        after: called after each job.
    """

    def __init__(self, threads: int, *, most: int = 1024, after: Callable[[], None] | None = None) -> None:
        self._most, self._after = most, after
        self._jobs: dict[Future[Any], tuple[int, Callable[[], None]]] = {}  # sizes and jobs, in their order
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name="captioner-lane", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Let work wait for a thread, and return its result to come; see :meth:`add`."""
        answer: Future[T] = Future()
        self.add(answer, partial(settle, answer, work))
        return answer

    def add(self, answer: Future[Any], job: Callable[[], None], size: int = 0) -> None:
        """Let a job wait for a thread; it is dropped, with all that it holds, when its answer is cancelled.

        Args:
            answer: of the job.
            job: sets the answer.
            size: smaller jobs are done before larger ones.

        Raises:
            FullError: too many wait, or it is closed.
        """
        with self._changed:
            if self._closed:
                raise FullError("the server is shutting down")
            if len(self._jobs) >= self._most:
                raise FullError(f"{self._most} images as large as this one wait already")
            self._jobs[answer] = size, job
            self._changed.notify()
        answer.add_done_callback(self._drop)

    def close(self) -> None:
        """Drop the jobs that wait, and end the threads after those in hand; see :meth:`join`."""
        with self._changed:
            self._closed = True
            waiting = list(self._jobs)
            self._changed.notify_all()
        for answer in waiting:
            answer.cancel()

    def join(self, until: float) -> bool:
        """Wait for the threads of a closed lane until a time on the monotonic clock; return whether all have ended."""
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
            del job  # and the image in it
            if self._after is not None:
                self._after()


class Decoding:
    """Decodes images in threads, and draws figures of them; see the module.

    Args:
        max_pixels: a larger image is an error; see :func:`captioner.data.images.load_image`.
        large: pixels beyond which an image is decoded in its turn among the large ones.
        waiting: large images that may wait.
    """

    def __init__(self, *, max_pixels: int | None = None, large: int = LARGE, waiting: int = 32) -> None:
        self._max_pixels, self._large = max_pixels, large
        self._headers, self._small = Lane(2), Lane(2)
        self._alone = Lane(1, most=waiting, after=return_freed_memory)
        self._drawing = Lane(2)

    def submit(self, image: bytes, work: Callable[[], T]) -> Future[T]:
        """Let an image wait until it can be decoded.

        Args:
            image: the content of an image file.
            work: decodes it.

        Returns:
            What ``work`` returns; or the :class:`ImageError` of an image that cannot be read, or the :class:`FullError`
            of a large one if too many of those wait. It can be cancelled until ``work`` is called.

        Raises:
            FullError: it is closed.
        """
        answer: Future[T] = Future()
        self.add(answer, image, partial(settle, answer, work))
        return answer

    def draw(self, work: Callable[[], T]) -> Future[T]:
        """Let work wait that draws something with decoded images; see :meth:`Lane.submit`."""
        return self._drawing.submit(work)

    def add(self, answer: Future[Any], image: bytes, job: Callable[[], None]) -> None:
        """Let a job wait that decodes an image for an answer; see :meth:`submit` and :meth:`Lane.add`."""

        def sort() -> None:
            try:
                width, height = check_file(image, max_pixels=self._max_pixels)
                pixels = width * height
                (self._alone if pixels > self._large else self._small).add(answer, job, pixels)
            except Exception as error:
                fail(answer, error)

        self._headers.add(answer, sort)

    def close(self, seconds: float = 0.0) -> bool:
        """Drop all that waits, and end the threads; return whether they have ended within some seconds."""
        lanes = (self._headers, self._small, self._alone, self._drawing)
        for lane in lanes:
            lane.close()
        until = time.monotonic() + seconds
        return all([lane.join(until) for lane in lanes])


def settle(answer: Future[T], work: Callable[[], T]) -> None:
    """Do work, and make its result or its exception the answer; if that was cancelled, do nothing."""
    if answer.set_running_or_notify_cancel():
        try:
            answer.set_result(work())
        except Exception as error:
            fail(answer, error)


def fail(answer: Future[Any], error: Exception) -> None:
    """Make an exception the answer, unless that was cancelled."""
    if isinstance(error, ImageError):
        error = ImageError(error.source, error.reason)  # a new one: the traceback would keep the image in memory
    if answer.running() or answer.set_running_or_notify_cancel():
        answer.set_exception(error)
