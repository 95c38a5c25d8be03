"""What one image of an archive may take, and what an archive may unpack to, checked before it is read."""

from __future__ import annotations

MOST_BYTES = 256 << 20
"""The most bytes of one image in an archive, a Parquet file or a bucket, which are read into memory: three times the
largest photos, and 89 million pixels without compression."""

MOST_HEADER = 1 << 20
"""The most bytes of the headers in front of one member of a tar file."""

_ALLOWED = 16 * MOST_BYTES  # half a minute's unpacking, so that what follows a huge member is still read
_TIMES = 100  # JSON shrinks to a tenth or a twentieth, images hardly


class BadPart(Exception):
    """A part that cannot be read, or not to its end; its text is the reason."""


def too_large(size: int) -> str:
    """Return why an image of that many bytes is not read; "" if it is."""
    if size <= MOST_BYTES:
        return ""
    return f"has {size:,} bytes, more than the {MOST_BYTES:,} that are read; save it as a smaller file"


def check_unpacked(unpacked: int, packed: int, allowed: int | None = None) -> None:
    """Check that an archive does not unpack to far more than images do, so that a small one cannot cost hours.

    Args:
        unpacked: bytes that were or would be unpacked so far.
        packed: bytes that they were unpacked from.
        allowed: bytes that may be unpacked from however few.

    Raises:
        BadPart: it does.
    """
    if unpacked > (_ALLOWED if allowed is None else allowed) + _TIMES * packed:
        raise BadPart(
            f"{packed:,} bytes unpack to {unpacked:,} or more, over {_TIMES} times as many; unpack it yourself, if you "
            "trust it"
        )
