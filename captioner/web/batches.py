"""Captions the pictures of many requests together.

One thread has the models. While it captions a batch, pictures of other requests wait; when it is done, all that wait
for one model are the next batch. So a single client waits for nobody, and many share the work of a batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from captioner.base import Captioner
from captioner.caption import Caption
from captioner.errors import CaptionerError, ImageError
from captioner.registry import suggestion


class FullError(CaptionerError):
    """So many pictures wait that another one would wait too long."""


class UnknownModelError(CaptionerError):
    """A model that is not served."""


class _Request(NamedTuple):
    model: str
    picture: bytes
    answer: Future[Caption]


class Batches:
    """Captions pictures in batches, on a thread of its own, which :meth:`close` ends.

    Args:
        models: the names that are served; the first is loaded at once, others when they are first requested.
        load: makes the captioner of a name.
        size: pictures in a batch, at most.
        waiting: pictures that may wait, at most.
        max_pixels: a larger picture is an error; see :func:`captioner.data.images.load_image`.
    """

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
        self.size, self.most, self.max_pixels = size, waiting, max_pixels
        self._load = load
        self._captioners: dict[str, Captioner] = {models[0]: load(models[0])}
        self._requests: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="captions", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        return len(self._requests)

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models that are in memory."""
        return tuple(self._captioners)

    def submit(self, picture: bytes, model: str | None = None) -> Future[Caption]:
        """Let a picture wait for its caption.

        Args:
            picture: the content of a picture file.
            model: one of those that are served; ``None`` is the first.

        Returns:
            The caption to come, or the :class:`ImageError` of a picture that cannot be read. A future that is cancelled
            in time costs nothing.

        Raises:
            UnknownModelError: the model is not served.
            FullError: too many wait, or the server is shutting down.
        """
        name = self.models[0] if model is None else model
        if name not in self.models:
            hint = suggestion(name, list(self.models))
            raise UnknownModelError(f"model {name!r} is not served.{hint} Take one of: {', '.join(self.models)}")
        request = _Request(name, picture, Future())
        with self._changed:
            if self._closed:
                raise FullError("the server is shutting down")
            if len(self._requests) >= self.most:
                raise FullError(f"{self.most} pictures wait already; try again in a few seconds")
            self._requests.append(request)
            self._changed.notify()
        return request.answer

    def close(self) -> None:
        """Refuse new pictures, finish the batch in hand, and drop those that wait."""
        with self._changed:
            self._closed = True
            for request in self._requests:
                request.answer.cancel()
            self._requests.clear()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            try:
                self._caption(batch)
            except Exception as error:  # whatever it is, it must not end the thread that all requests wait for
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)

    def _next(self) -> list[_Request]:
        """Wait for pictures and take those of one model, in their order; none once it is closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._requests or self._closed)
                if self._closed:
                    return []
                model = self._requests[0].model
                batch: list[_Request] = []
                others: deque[_Request] = deque()
                for request in self._requests:
                    (batch if request.model == model and len(batch) < self.size else others).append(request)
                self._requests = others
                if batch := [request for request in batch if request.answer.set_running_or_notify_cancel()]:
                    return batch

    def _caption(self, batch: Sequence[_Request]) -> None:
        model = batch[0].model
        if model not in self._captioners:
            self._captioners[model] = self._load(model)
        pictures = [request.picture for request in batch]
        results = self._captioners[model].stream(pictures, batch_size=self.size, max_pixels=self.max_pixels)
        for request, result in zip(batch, results, strict=True):
            if isinstance(result, ImageError):
                request.answer.set_exception(result)
            else:
                request.answer.set_result(result)
