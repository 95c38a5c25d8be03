"""What a caption format is, and the registry that knows all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from captioner.data.annotations.source import Source

PHOTO_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images", "Images", "images")
"""Names of the folders in which people keep Flickr8k's and Flickr30k's photos; the first is how the release spells it."""


@dataclass(frozen=True)
class Format:
    """A caption format: how a folder or a file of it is recognised, and its reader.

    Attributes:
        name: what :func:`~captioner.data.annotations.read_captions` calls it.
        files: patterns of its caption files within a folder; the first that matches anything counts.
        accepts: whether a single file is of this format.
        read: puts photos, captions and problems into a :class:`Source`.
    """

    name: str
    files: tuple[str, ...]
    accepts: Callable[[Source], bool]
    read: Callable[[Source], None]


FORMATS: dict[str, Format] = {}
"""Every format under its name; a folder that holds several is read as the first of them."""


def reader(
    name: str, *files: str, accepts: Callable[[Source], bool]
) -> Callable[[Callable[[Source], None]], Callable[[Source], None]]:
    """Register the decorated function as the reader of a format; see :class:`Format` for the arguments."""

    def register(read: Callable[[Source], None]) -> Callable[[Source], None]:
        FORMATS[name] = Format(name, files, accepts, read)
        return read

    return register
