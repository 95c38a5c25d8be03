"""TIFF files of kinds that Pillow does not write."""

from __future__ import annotations

import struct
from typing import Any

_TYPES = {338: 3, 258: 3, 259: 3, 262: 3, 277: 3, 284: 3, 317: 3, 339: 3}  # short ones; others are long


def tiff(tags: dict[int, Any], data: dict[int, bytes | list[bytes]] | None = None, order: str = "<") -> bytes:
    """A TIFF of one page.

    Args:
        tags: numbers, or lists of them, by tag.
        data: what a tag points to, for the tags of offsets.
        order: ``<`` for little endian, ``>`` for big.
    """
    blocks = {tag: [block] if isinstance(block, bytes) else block for tag, block in (data or {}).items()}
    values = {tag: [value] if isinstance(value, int) else list(value) for tag, value in tags.items()}
    values |= {tag: [0] * len(block) for tag, block in blocks.items()}
    place = 8 + 2 + 12 * len(values) + 4
    places = {}
    for tag, numbers in values.items():
        size = len(numbers) * (2 if tag in _TYPES else 4)
        if size > 4:
            places[tag] = place
            place += size
    for tag, block in blocks.items():
        for index, content in enumerate(block):
            values[tag][index] = place
            place += len(content)
    entries = extra = b""
    for tag in sorted(values):
        letter = "H" if tag in _TYPES else "I"
        packed = struct.pack(f"{order}{len(values[tag])}{letter}", *values[tag])
        value = struct.pack(order + "I", places[tag]) if tag in places else packed.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, _TYPES.get(tag, 4), len(values[tag])) + value
    for tag in values:
        if tag in places:
            letter = "H" if tag in _TYPES else "I"
            extra += struct.pack(f"{order}{len(values[tag])}{letter}", *values[tag])
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(values))
    return head + entries + bytes(4) + extra + b"".join(content for block in blocks.values() for content in block)
