"""Captions the images of many requests together.

Each image is decoded apart (:mod:`captioner.web.lanes`), so one that takes long holds up none of the others. One thread
has the models. While it captions a batch, decoded images of other requests wait; when it is done, all that wait for one
model are the next batch. So a single client waits for nobody, and many share the work of a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count
from typing import NamedTuple, TypeVar

from captioner.base import Captioner
from captioner.caption import MEAN, Caption
from captioner.data.images import ImageSource
from captioner.data.limits import pixel_limit
from captioner.data.loader import Loaded, load_pixels, make_batch
from captioner.errors import CaptionerError, ImageError
from captioner.registry import suggestion
from captioner.web.lanes import Decoding, FullError, fail

T = TypeVar("T")


class UnknownModelError(CaptionerError):
    """A model that is not served."""


class _Request(NamedTuple):
    number: int
    model: str
    answer: Future[Caption]


class Batches:
    """Captions images in batches, on a thread of its own, which :meth:`close` ends.

    Args:
        models: the names that are served; the first is loaded at once, others when they are first requested.
        load: makes the captioner of a name.
        size: images in a batch, at most.
        waiting: images that may wait, at most.
        max_pixels: a larger image is an error; see :func:`captioner.data.images.load_image`.

    Attributes:
        stuck: whether an image was still being decoded, or a figure drawn, 2 s after it was closed.
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
        self.size, self.most, self.max_pixels = size, waiting, pixel_limit(max_pixels)
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
        """How many images wait, to be decoded or for a batch."""
        return len(self._waiting)

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models that are in memory."""
        return tuple(self._captioners)

    def submit(self, image: bytes, model: str | None = None) -> Future[Caption]:
        """Let an image wait for its caption.

        Args:
            image: the content of an image file.
            model: one of those that are served; ``None`` is the first.

        Returns:
            The caption to come; or the :class:`ImageError` of an image that cannot be read, or the :class:`FullError`
            of a large one if too many of those wait. A future that is cancelled in time costs nothing.

        Raises:
            UnknownModelError: the model is not served.
            FullError: too many wait, or the server is shutting down.
        """
        name = self.models[0] if model is None else model
        if name not in self.models:
            hint = suggestion(name, list(self.models))
            raise UnknownModelError(f"model {name!r} is not served.{hint} Take one of: {', '.join(self.models)}")
        request = _Request(next(self._numbers), name, Future())
        with self._changed:
            if len(self._waiting) >= self.most:
                raise FullError(f"{self.most} images wait already")
            self._waiting[request.number] = request.answer
        request.answer.add_done_callback(lambda _: self._drop(request.number))
        try:
            self._decoding.add(request.answer, image, partial(self._prepare, request, image))
        except FullError:
            request.answer.cancel()
            raise
        return request.answer

    def decode(self, image: bytes, work: Callable[[], T]) -> Future[T]:
        """Let an image wait until it can be decoded for something else; see :meth:`Decoding.submit`."""
        return self._decoding.submit(image, work)

    def draw(self, work: Callable[[], T]) -> Future[T]:
        """Let a figure wait until it can be drawn; see :meth:`Decoding.draw`."""
        return self._decoding.draw(work)

    def close(self) -> None:
        """Refuse new images, finish the batch in hand, and drop those that wait; sets :attr:`stuck`."""
        with self._changed:
            self._closed = True
            waiting = list(self._waiting.values())
            self._changed.notify()
        for answer in waiting:
            answer.cancel()
        self.stuck = not self._decoding.close(seconds=2.0)
        self._thread.join()

    def _prepare(self, request: _Request, image: bytes) -> None:
        """Decode an image for its model, in one of the threads for that, and let it wait for a batch."""
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
        """Forget a request that has its answer, or was cancelled."""
        with self._changed:
            self._waiting.pop(number, None)
            self._decoded.pop(number, None)

    def _run(self) -> None:
        while batch := self._next():
            try:
                self._caption(batch)
            except Exception as error:  # whatever it is, it must not end the thread that all requests wait for
                for request, _ in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
            del batch  # nothing is kept while it waits for the next

    def _next(self) -> list[tuple[_Request, Loaded]]:
        """Wait for decoded images and take those of one model, in the order of their requests; none once closed."""
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
        at_once = captioner.encoded_at_once(self.size)
        good: list[tuple[int, ImageSource, Loaded]] = [
            (position, b"", loaded) for position, (_, loaded) in enumerate(batch)
        ]
        parts = [make_batch(good[i : i + at_once], [], captioner.transform) for i in range(0, len(good), at_once)]
        results = captioner.caption_batches(parts, -(-self.size // at_once), MEAN)
        for (request, _), result in zip(batch, results, strict=True):
            if isinstance(result, ImageError):
                request.answer.set_exception(result)
            else:
                request.answer.set_result(result)
