"""Captions of the items of a collection, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from captioner.caption import Caption
from captioner.captioner import Captioner
from captioner.collection.items import Item
from captioner.collection.limits import MAX_IMAGE_BYTES
from captioner.data.images import ImageSource
from captioner.errors import ImageError

if TYPE_CHECKING:
    from captioner.translation.translator import Translator


def captioned(
    captioner: Captioner,
    items: Iterable[Item],
    *,
    translator: Translator | None = None,
    batch_size: int = 32,
    workers: int = 2,
    max_pixels: int | None = None,
) -> Iterator[tuple[Item, Caption | ImageError]]:
    """Yield each item with its caption, or with the reason why it has none, which names the item.

    Items that are read into memory wait for their captions only up to :data:`MAX_IMAGE_BYTES`.

    Args:
        captioner: the model.
        items: iterated lazily.
        translator: translates the captions.
        batch_size: images captioned at once.
        workers: threads that load images.
        max_pixels: a larger image is an error.
    """
    left, waiting, held = iter(items), deque[Item](), list[Item]()

    def sources() -> Iterator[ImageSource]:
        """Yield the remaining images, until too many bytes wait for their captions."""
        while (item := held.pop() if held else next(left, None)) is not None:
            if waiting and sum(each.size for each in waiting) + item.size > MAX_IMAGE_BYTES:
                held.append(item)
                return
            waiting.append(item)
            yield b"" if item.data is None else item.data

    while True:
        results: Iterator[Caption | ImageError] = captioner.stream(
            sources(), batch_size=batch_size, workers=workers, max_pixels=max_pixels
        )
        for result in translator.captions(results, batch_size=batch_size) if translator else results:
            item = waiting.popleft()
            if isinstance(result, ImageError):
                result = ImageError(item.name, item.error or result.reason)
            yield item, result
        if not held:
            return
