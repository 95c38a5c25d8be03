"""Limits on the size of an image in an archive and on the unpacked size of an archive, checked before reading."""

from __future__ import annotations

from captioner.data.names import MAX_IMAGE_BYTES as MAX_IMAGE_BYTES

MAX_HEADER = 1 << 20
"""Largest headers of one member of a tar file, in bytes."""

_ALLOWED = 16 * MAX_IMAGE_BYTES  # half a minute of unpacking; members after a huge one are still read
_MAX_RATIO = 100  # JSON shrinks to a tenth or a twentieth, images hardly


class BadPart(Exception):
    """A part that cannot be read to its end; the text is the reason."""


def too_large(size: int) -> str:
    """Return the reason why an image of that many bytes is not read; "" if it is read."""
    if size <= MAX_IMAGE_BYTES:
        return ""
    return f"has {size:,} bytes, more than the {MAX_IMAGE_BYTES:,} that are read; save it as a smaller file"


def check_unpacked(unpacked: int, packed: int, allowed: int | None = None) -> None:
    """Limit the compression ratio of an archive: a small one could otherwise take hours to unpack.

    Args:
        unpacked: unpacked bytes so far.
        packed: packed bytes so far.
        allowed: unpacked bytes that are allowed at any ratio.

    Raises:
        BadPart: the ratio is too high.
    """
    if unpacked > (_ALLOWED if allowed is None else allowed) + _MAX_RATIO * packed:
        raise BadPart(
            f"{packed:,} bytes unpack to {unpacked:,} or more, over {_MAX_RATIO} times as many; unpack it yourself, if "
            "you trust it"
        )
