"""Captions in IPTC's older form: IIM 4, and the resources of Photoshop that hold it."""

from __future__ import annotations

import struct

from captioner.metadata.ifd import as_text

_IPTC = 0x0404  # the resource that holds IIM
_CAPTION = (2, 120)  # Caption-Abstract


def photoshop_descriptions(block: bytes) -> list[str]:
    """Return the captions in Photoshop's resources, as they stand in a JPEG's APP13 and in TIFF's tag 34377.

    Args:
        block: resources, each ``8BIM``, a number, a name padded to an even length, a length and padded data.
    """
    found: list[str] = []
    position = 0
    while block[position : position + 4] == b"8BIM" and position + 12 <= len(block):
        (number,) = struct.unpack_from(">H", block, position + 4)
        position += 6
        position += (block[position] + 2) & ~1  # the name, with its length
        if position + 4 > len(block):
            break
        (length,) = struct.unpack_from(">I", block, position)
        if number == _IPTC:
            found += iim_descriptions(block[position + 4 : position + 4 + length])
        position += 4 + ((length + 1) & ~1)
    return found


def iim_descriptions(block: bytes) -> list[str]:
    """Return Caption-Abstract in a block of IIM (IPTC-IIM 4.2, 1.5 and 2:120), as far as the block is intact.

    Args:
        block: data sets, each a byte 1C, record, number, length and value.
    """
    found: list[str] = []
    position = 0
    while position + 5 <= len(block) and block[position] == 0x1C:
        key = (block[position + 1], block[position + 2])
        (length,) = struct.unpack_from(">H", block, position + 3)
        position += 5
        if length & 0x8000:  # an extended data set: these are the bytes of its length
            digits = length & 0x7FFF
            length = int.from_bytes(block[position : position + digits], "big")
            position += digits
        if key == _CAPTION:
            found.append(as_text(block[position : position + length]))
        position += length
    return found
