"""The registry of caption formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from captioner.data.annotations.source import Source
from captioner.registry import Registry

IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images", "Images", "images")
"""Common folders of the images of Flickr8k and Flickr30k; the first is the release's own spelling."""


@dataclass(frozen=True)
class CaptionFormat:
    """A caption format and its reader.

    Attributes:
        name: its name for :func:`~captioner.data.annotations.read_captions`.
        files: patterns of its caption files in a folder; the first with a match counts. Without patterns, ``accepts``
            decides.
        accepts: whether a single file has this format, or a folder, if there are no patterns.
        read: adds images, captions and problems to a :class:`Source`.
        binary: whether its caption files are not text.
        sign: how a folder of this format is recognised, for messages, if there are no patterns.
    """

    name: str
    files: tuple[str, ...]
    accepts: Callable[[Source], bool]
    read: Callable[[Source], None]
    binary: bool = False
    sign: str = ""


FORMATS: Registry[CaptionFormat] = Registry("caption format", group="captioner.readers")
"""Every format by its name. A folder that holds several is read as the first; formats from outside come first."""


def reader(
    name: str, *files: str, accepts: Callable[[Source], bool], binary: bool = False, sign: str = ""
) -> Callable[[Callable[[Source], None]], Callable[[Source], None]]:
    """Register the decorated function as the reader of a format; see :class:`CaptionFormat` for the arguments."""

    def register(read: Callable[[Source], None]) -> Callable[[Source], None]:
        FORMATS.register(name)(CaptionFormat(name, files, accepts, read, binary, sign))
        return read

    return register
