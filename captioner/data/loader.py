"""Loading images into batches in threads, by :func:`load_image` and :meth:`Transform.pixels`, with their errors.

Letters in shapes: B images in a batch, S the transform's size in pixels.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeAlias

from captioner.data.images import ImageSource, load_image
from captioner.data.pixel_limit import pixel_limit
from captioner.data.transform import WHOLE, Box, Transform
from captioner.errors import ImageError
from captioner.settings import check_numbers

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class ImageBatch:
    """Images for an encoder, and the errors of loading.

    Attributes:
        array: uint8 ``(B, 3, S, S)``, in memory B x S x S x 3, the good images only; B may be 0.
        sources: the B sources as given.
        positions: their B positions in the input, counted from 0.
        seen: the part of each image that the encoder sees, B relative xyxy boxes; see :meth:`Transform.visible_box`.
        errors: the position in the input and the error of each bad image, in order.
    """

    array: np.ndarray[Any, np.dtype[np.uint8]]
    sources: list[ImageSource]
    positions: list[int]
    seen: list[Box]
    errors: list[tuple[int, ImageError]]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def pixels(self) -> torch.Tensor:
        """The pixels as a tensor on the same memory."""
        import torch

        return torch.from_numpy(self.array)


Loaded: TypeAlias = "tuple[np.ndarray[Any, Any], Box]"


class ImageLoader:
    """Loads images in threads and yields them in batches, in the order of the input.

    Threads suffice, since Pillow releases Python's global lock while it decodes and resizes. ``sources`` may be
    endless: at most ``(prefetch + 1) * batch_size`` of them are held at a time.

    A batch is filled with good images and carries the errors that occur meanwhile. It holds fewer than ``batch_size``
    images, perhaps none, only at the end of the input or after ``(prefetch + 1) * batch_size`` errors in one batch.

    Args:
        sources: anything that :func:`load_image` accepts; traversed once per iteration.
        transform: makes the encoder's input of each image.
        batch_size: images in a batch.
        workers: threads.
        max_pixels: see :func:`load_image`.
        prefetch: batches loaded ahead of the one in use.

    Raises:
        ConfigError: a number is too small or too large.
    """

    def __init__(
        self,
        sources: Iterable[ImageSource],
        transform: Transform,
        *,
        batch_size: int = 8,
        workers: int = min(4, os.cpu_count() or 1),
        max_pixels: int | None = None,
        prefetch: int = 2,
    ) -> None:
        check_numbers(batch_size=batch_size, workers=workers)
        check_numbers(0, prefetch=prefetch)
        self.sources = sources
        self.transform = transform
        self.batch_size = batch_size
        self.workers = workers
        self.max_pixels = pixel_limit(max_pixels)
        self.prefetch = prefetch

    def __iter__(self) -> Iterator[ImageBatch]:
        window = (self.prefetch + 1) * self.batch_size
        incoming = enumerate(self.sources)
        pending: deque[tuple[int, ImageSource, Future[Loaded | ImageError]]] = deque()
        good: list[tuple[int, ImageSource, Loaded]] = []
        errors: list[tuple[int, ImageError]] = []
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="captioner-images")
        try:
            while True:
                for position, source in islice(incoming, window - len(pending) - len(good)):
                    pending.append(
                        (position, source, pool.submit(load_pixels, source, self.transform, self.max_pixels))
                    )
                if not pending:
                    break
                position, source, future = pending.popleft()
                result = future.result()
                if isinstance(result, ImageError):
                    errors.append((position, result))
                else:
                    good.append((position, source, result))
                if len(good) == self.batch_size or len(errors) == window:
                    yield make_batch(good, errors, self.transform)
                    good, errors = [], []
            if good or errors:
                yield make_batch(good, errors, self.transform)
        finally:  # also when the caller stops early
            pool.shutdown(wait=True, cancel_futures=True)


def load_groups(
    groups: Iterable[Sequence[ImageSource]],
    transform: Transform,
    *,
    crops: Iterable[Sequence[Box]] | None = None,
    workers: int = min(4, os.cpu_count() or 1),
    max_pixels: int | None = None,
) -> Iterator[ImageBatch]:
    """Load images in threads, one batch for each group; the next group is loaded while a batch is in use.

    A batch holds the good images of its group, perhaps none, and the errors of the others.

    Args:
        groups: the images of each batch.
        transform: makes the encoder's input of each image.
        crops: for each group, the crop of each image; ``seen`` is then relative to it. ``None`` for whole images.
        workers: threads, the same for all groups.
        max_pixels: see :func:`load_image`.
    """
    limit, parts = pixel_limit(max_pixels), None if crops is None else iter(crops)
    with ThreadPoolExecutor(workers, thread_name_prefix="captioner-images") as pool:
        waiting: deque[tuple[Sequence[ImageSource], list[Future[Loaded | ImageError]]]] = deque()
        try:
            for group in chain(groups, (None,)):
                if group is not None:
                    boxes = next(parts) if parts is not None else [WHOLE] * len(group)
                    requests = zip(group, boxes, strict=True)
                    waiting.append(
                        (group, [pool.submit(load_pixels, one, transform, limit, box) for one, box in requests])
                    )
                if waiting and (group is None or len(waiting) > 1):
                    sources, futures = waiting.popleft()
                    results = [future.result() for future in futures]
                    rows = list(enumerate(zip(sources, results, strict=True)))
                    good = [(i, source, row) for i, (source, row) in rows if not isinstance(row, ImageError)]
                    errors = [(i, row) for i, (_, row) in rows if isinstance(row, ImageError)]
                    yield make_batch(good, errors, transform)
        finally:  # also when the caller stops early
            pool.shutdown(wait=False, cancel_futures=True)


def load_pixels(source: ImageSource, transform: Transform, max_pixels: int, box: Box = WHOLE) -> Loaded | ImageError:
    """Return the encoder's input of one image and the part that it shows, or the error of a bad image."""
    try:
        image = load_image(source, max_pixels=max_pixels, min_size=transform.decode_size)
        if box != WHOLE:
            image = image.crop(_corners(box, image.size))
        return transform.pixels(image), transform.visible_box(image.size)
    except ImageError as error:
        return ImageError(error.source, error.reason)  # a new one: the traceback would keep the image in memory


def _corners(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a relative box in whole pixels of an image, at least one pixel large."""
    width, height = size
    left, top = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    return left, top, max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)


def make_batch(
    good: list[tuple[int, ImageSource, Loaded]], errors: list[tuple[int, ImageError]], transform: Transform
) -> ImageBatch:
    """Stack loaded images into a batch.

    Args:
        good: the position in the input, the source, and the result of :func:`load_pixels` of each good image.
        errors: the position in the input and the error of each bad one.
        transform: the transform of the images.
    """
    import numpy as np

    # The colours of a pixel are adjacent in memory, as in an image and as the encoders read them.
    images = [pixels.transpose(1, 2, 0) for _, _, (pixels, _) in good]
    channels, *sides = transform.shape
    array = np.stack(images) if good else np.empty((0, *sides, channels), dtype=np.uint8)
    return ImageBatch(
        array.transpose(0, 3, 1, 2),
        [source for _, source, _ in good],
        [position for position, _, _ in good],
        [seen for _, _, (_, seen) in good],
        errors,
    )
