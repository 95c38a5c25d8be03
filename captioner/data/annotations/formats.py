"""The registry of caption formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from captioner.data.annotations.source import Source

PHOTO_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images", "Images", "images")
"""Common folders of the images of Flickr8k and Flickr30k; the first is the release's own spelling."""


@dataclass(frozen=True)
class CaptionFormat:
    """A caption format and its reader.

    Attributes:
        name: its name for :func:`~captioner.data.annotations.read_captions`.
        files: patterns of its caption files in a folder; the first with a match counts.
        accepts: whether a single file has this format.
        read: adds images, captions and problems to a :class:`Source`.
    """

    name: str
    files: tuple[str, ...]
    accepts: Callable[[Source], bool]
    read: Callable[[Source], None]


FORMATS: dict[str, CaptionFormat] = {}
"""Every format by its name; a folder with several is read as the first of them."""


def reader(
    name: str, *files: str, accepts: Callable[[Source], bool]
) -> Callable[[Callable[[Source], None]], Callable[[Source], None]]:
    """Register the decorated function as the reader of a format; see :class:`CaptionFormat` for the arguments."""

    def register(read: Callable[[Source], None]) -> Callable[[Source], None]:
        FORMATS[name] = CaptionFormat(name, files, accepts, read)
        return read

    return register
