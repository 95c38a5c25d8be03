"""The common form of the four kinds of image files that can hold XMP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from captioner.errors import ImageError
from captioner.metadata.source import Source

Piece: TypeAlias = "bytes | range"
"""A part of a new file: new bytes, or a range of positions in the old file, from which it is copied."""

MAX_XMP = 64 << 20
"""Largest size in bytes of an XMP packet that is read."""


class Container(ABC):
    """The parts of an image file.

    Attributes:
        source: the file.
        packet: its XMP packet, if it has one.
        extended: further XMP packets, which are read and kept but not edited.
        refusal: why the file is read but not written, if it is not.
        descriptions: descriptions of the image in older fields: EXIF's ImageDescription, IPTC's Caption-Abstract, and
            PNG's Description.
        pixels: where the compressed image lies: ranges of positions in the file, in order.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.packet: bytes | None = None
        self.extended: list[bytes] = []
        self.refusal: ImageError | None = None
        self.descriptions: list[str] = []
        self.pixels: Sequence[range] = ()

    def take(self, packets: Sequence[bytes]) -> None:
        """Set the packet to the first of several, of which only one should be there."""
        self.packet = packets[0] if packets else None
        self.extended += packets[1:]
        if len(packets) > 1:
            self.refusal = self.source.fault(f"it has {len(packets)} XMP packets, of which only one can be right")

    @abstractmethod
    def with_packet(self, packet: bytes) -> list[Piece]:
        """Return the pieces of a new file with another XMP packet and the same image.

        Raises:
            ImageError: the packet is too large for the format.
        """


def replaced(size: int, edits: Sequence[tuple[int, int, bytes]]) -> list[Piece]:
    """Return the pieces of a file of ``size`` bytes in which each range ``start..end`` became other bytes.

    Args:
        size: of the old file in bytes.
        edits: (start, end, new bytes) in order, without overlap.
    """
    pieces: list[Piece] = []
    position = 0
    for start, end, new in edits:
        pieces += [range(position, start), new]
        position = end
    return [*pieces, range(position, size)]
