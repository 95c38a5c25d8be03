"""Captions the images of many requests in shared batches.

Images are decoded separately (:mod:`captioner.web.lanes`), so a slow one does not delay the others. One thread runs the
models. While it captions a batch, decoded images queue; when it finishes, all images queued for one model form the next
batch. So a single client never waits for a batch to fill, and many clients share the work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count
from typing import NamedTuple, TypeVar

from captioner.caption import Caption
from captioner.captioner import Captioner, attach_sources
from captioner.data.images import ImageSource
from captioner.data.loader import Loaded, load_pixels, make_batch
from captioner.data.pixel_limit import pixel_limit
from captioner.errors import CaptionerError, ImageError
from captioner.registry import suggestion
from captioner.web.lanes import Decoding, FullError, fail

T = TypeVar("T")


class UnknownModelError(CaptionerError):
    """The model is not served."""


class _Request(NamedTuple):
    number: int
    model: str
    answer: Future[Caption]


class Batches:
    """Captions images in batches on its own thread, until :meth:`close`.

    Args:
        models: names of the served models; the first is loaded at once, others at their first request.
        load: loads a captioner by name.
        size: maximum images in a batch.
        waiting: maximum images in the queue.
        max_pixels: a larger image is an error; see :func:`captioner.data.images.load_image`.

    Attributes:
        stuck: whether an image was still being decoded, or a figure drawn, 2 s after closing.
    """

    stuck = False

    def __init__(
        self,
        models: Sequence[str],
        load: Callable[[str], Captioner],
        *,
        size: int = 16,
        waiting: int = 128,
        max_pixels: int | None = None,
    ) -> None:
        self.models = tuple(models)
        self.size, self.max_waiting, self.max_pixels = size, waiting, pixel_limit(max_pixels)
        self._load, self._loading = load, threading.Lock()
        self._captioners: dict[str, Captioner] = {models[0]: load(models[0])}
        self._decoding = Decoding(max_pixels=self.max_pixels)
        self._numbers = count()
        self._waiting: dict[int, Future[Caption]] = {}
        self._decoded: dict[int, tuple[_Request, Loaded]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="captions", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of images that wait for decoding or for a batch."""
        return len(self._waiting)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the models in memory."""
        return tuple(self._captioners)

    def submit(self, image: bytes, model: str | None = None) -> Future[Caption]:
        """Queue an image for captioning.

        Args:
            image: content of an image file.
            model: name of a served model; ``None`` means the first.

        Returns:
            A future of the caption. Its exception is an :class:`ImageError` if the image cannot be read, or a
            :class:`FullError` if too many large images wait. Cancelling it early saves the work.

        Raises:
            UnknownModelError: the model is not served.
            FullError: the queue is full, or the server is shutting down.
        """
        name = self.models[0] if model is None else model
        if name not in self.models:
            hint = suggestion(name, list(self.models))
            raise UnknownModelError(f"model {name!r} is not served.{hint} Take one of: {', '.join(self.models)}")
        request = _Request(next(self._numbers), name, Future())
        with self._changed:
            if len(self._waiting) >= self.max_waiting:
                raise FullError(f"{self.max_waiting} images wait already")
            self._waiting[request.number] = request.answer
        request.answer.add_done_callback(lambda _: self._drop(request.number))
        try:
            self._decoding.add(request.answer, image, partial(self._prepare, request, image))
        except FullError:
            request.answer.cancel()
            raise
        return request.answer

    def decode(self, image: bytes, work: Callable[[], T]) -> Future[T]:
        """Queue an image to be decoded for another purpose; see :meth:`Decoding.submit`."""
        return self._decoding.submit(image, work)

    def draw(self, work: Callable[[], T]) -> Future[T]:
        """Queue a figure to be drawn; see :meth:`Decoding.draw`."""
        return self._decoding.draw(work)

    def close(self) -> None:
        """Reject new images, finish the current batch, drop the queue, and set :attr:`stuck`."""
        with self._changed:
            self._closed = True
            waiting = list(self._waiting.values())
            self._changed.notify()
        for answer in waiting:
            answer.cancel()
        self.stuck = not self._decoding.close(seconds=2.0)
        self._thread.join()

    def _prepare(self, request: _Request, image: bytes) -> None:
        """Decode an image for its model on a decoding thread, and queue it for a batch."""
        try:
            if request.model not in self._captioners:
                with self._loading:
                    if request.model not in self._captioners:
                        self._captioners[request.model] = self._load(request.model)
            loaded = load_pixels(image, self._captioners[request.model].transform, self.max_pixels)
        except Exception as error:
            fail(request.answer, error)
            return
        if isinstance(loaded, ImageError):
            fail(request.answer, loaded)
            return
        with self._changed:
            if request.number in self._waiting:
                self._decoded[request.number] = request, loaded
                self._changed.notify()

    def _drop(self, number: int) -> None:
        with self._changed:
            self._waiting.pop(number, None)
            self._decoded.pop(number, None)

    def _run(self) -> None:
        while batch := self._next():
            try:
                self._caption(batch)
            except Exception as error:  # of any kind: all requests need this thread
                for request, _ in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
            del batch  # frees the images while waiting

    def _next(self) -> list[tuple[_Request, Loaded]]:
        """Wait for decoded images and take a batch for one model, oldest request first; empty once closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._decoded or self._closed)
                if self._closed:
                    return []
                waiting = [self._decoded[number] for number in sorted(self._decoded)]
                model = waiting[0][0].model
                batch = [one for one in waiting if one[0].model == model][: self.size]
                for request, _ in batch:
                    del self._decoded[request.number], self._waiting[request.number]
                if batch := [one for one in batch if one[0].answer.set_running_or_notify_cancel()]:
                    return batch

    def _caption(self, batch: Sequence[tuple[_Request, Loaded]]) -> None:
        captioner = self._captioners[batch[0][0].model]
        at_once = captioner.engine.encoded_at_once(len(batch))  # every core gets a part
        good: list[tuple[int, ImageSource, Loaded]] = [
            (position, b"", loaded) for position, (_, loaded) in enumerate(batch)
        ]
        parts = [make_batch(good[i : i + at_once], [], captioner.transform) for i in range(0, len(good), at_once)]
        groups = captioner.engine.caption(parts, captioner.search, together=-(-len(batch) // at_once))
        results = [result for group in groups for result in attach_sources(*group)]
        for (request, _), result in zip(batch, results, strict=True):
            if isinstance(result, ImageError):
                request.answer.set_exception(result)
            else:
                request.answer.set_result(result)
