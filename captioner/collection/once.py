"""Leaving out exact copies of images, and all photos of a burst but the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
from PIL import Image

from captioner.collection.items import Item
from captioner.data.heif import is_heif, open_heif
from captioner.data.images import digest, load_image, silence_pillow
from captioner.data.sources import name_of, open_source
from captioner.errors import ImageError

SECONDS = 2.0
"""Longest time between two photos of a burst."""

BITS = 10
"""Most bits of 64 in which the difference hash of a photo in a burst differs from that of the first one."""

_MAKE, _MODEL, _EXIF, _TIME, _FRACTION = 0x010F, 0x0110, 0x8769, 0x9003, 0x9291


class Deduplicator:
    """Leaves out copies of a file under other names, and all photos of a burst but the first.

    A burst is a run of photos of one camera, each taken at most :data:`SECONDS` after the one before, that look like
    the first one: their difference hashes (which of neighbouring cells of an 8 x 9 thumbnail is brighter) differ in at
    most :data:`BITS` bits.

    Attributes:
        copies: number of files that were left out.
        bursts: number of photos of bursts that were left out.
    """

    def __init__(self) -> None:
        self.copies = self.bursts = 0
        self._known: dict[str, str] = {}  # names by the digests of their files
        self._first: int | None = None  # hash of the first photo of a burst
        self._taken: tuple[Any, datetime] | None = None  # camera and time of the last photo

    def first(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items that are not left out, and unreadable ones."""
        for item in items:
            if item.data is None or not (self._is_copy(item.name, item.data) or self._is_next(item.data)):
                yield item

    def _is_copy(self, name: str, data: str | bytes) -> bool:
        try:
            copy = self._known.setdefault(digest(data), name) != name
        except ImageError:  # captioning it reports the reason
            return False
        self.copies += copy
        return copy

    def _is_next(self, data: str | bytes) -> bool:
        """Return whether a photo belongs to a burst that has begun; if not, begin another one."""
        taken, before, first = _taken(data), self._taken, self._first
        self._taken, self._first = taken, None
        if taken is None:
            return False
        try:
            seen = difference_hash(load_image(data, min_size=72))
        except ImageError:
            return False
        near = before is not None and _follows(before, taken)
        if near and first is not None and (seen ^ first).bit_count() <= BITS:
            self._first = first
            self.bursts += 1
            return True
        self._first = seen
        return False


def difference_hash(image: Image.Image) -> int:
    """Return 64 bits: whether the left one is brighter, of each pair of neighbours in a thumbnail of 9 x 8 cells."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


def _taken(data: str | bytes) -> tuple[Any, datetime] | None:
    """Return the camera and the time of a photo, from its EXIF data."""
    silence_pillow()
    try:
        with open_source(data, name_of(data)) as file:
            image = open_heif(file, "") if is_heif(file.read(1024)) else Image.open(file)
            exif = image.getexif()
        inner = exif.get_ifd(_EXIF)
        time = datetime.strptime(str(inner[_TIME]).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        fraction = str(inner.get(_FRACTION, "")).strip("\0 ")
    except Exception:  # there is none, or it is damaged
        return None
    if fraction.isdecimal():
        time = time.replace(microsecond=int(float(f"0.{fraction}") * 1e6))
    return (exif.get(_MAKE), exif.get(_MODEL)), time


def _follows(before: tuple[Any, datetime], after: tuple[Any, datetime]) -> bool:
    return before[0] == after[0] and 0 <= (after[1] - before[1]).total_seconds() <= SECONDS
