"""JPEG XL, which a plugin of Pillow decodes if it is installed, and the size in its header.

The plugin decodes an image when it opens it, so its size is read first (ISO/IEC 18181-1, A.2, "SizeHeader").
"""

from __future__ import annotations

from typing import IO

from PIL import Image

from captioner.data.pixel_limit import check_size
from captioner.errors import ImageError
from captioner.machine.packages import install

MAGIC = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height


def open_jxl(stream: IO[bytes], name: str, limit: int) -> Image.Image:
    """Open a JPEG XL.

    Raises:
        ImageError: the plugin is not installed, or the image has more pixels than ``limit``.
    """
    try:
        import pillow_jxl  # noqa: F401 (registers the format)
    except ImportError:
        raise ImageError(
            name, f"JPEG XL needs a plugin; run: {install('pillow_jxl')}, or convert it to PNG or JPEG"
        ) from None
    stream.seek(0)
    check_size(jxl_size(stream.read(1 << 16)), name, limit)
    stream.seek(0)
    return Image.open(stream, formats=["JXL"])


def jxl_size(head: bytes) -> tuple[int, int]:
    """Return the width and height in the header of a JPEG XL, a bare codestream or one in a container.

    Args:
        head: its first bytes.

    Raises:
        ValueError: it has no header.
    """
    start = 0 if head.startswith(MAGIC[0]) else _codestream(head)
    bits = _Bits(head[start + 2 : start + 34])
    small = bits.take(1)

    def side() -> int:
        if small:
            return 8 * (1 + bits.take(5))
        return 1 + bits.take((9, 13, 18, 30)[bits.take(2)])

    height = side()
    ratio = bits.take(3)
    if ratio == 0:
        return side(), height
    above, below = _RATIOS[ratio - 1]
    return height * above // below, height


def _codestream(head: bytes) -> int:
    """Return where the codestream begins in a container, after the header of its box ``jxlc`` or first ``jxlp``."""
    at = 0
    while at + 16 <= len(head):
        size, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        data = at + 8
        if size == 1:
            size, data = int.from_bytes(head[at + 8 : at + 16], "big"), at + 16
        if kind in (b"jxlc", b"jxlp"):
            return data + 4 * (kind == b"jxlp")
        if size < 8:
            break
        at += size
    raise ValueError("it has no codestream at its beginning")


class _Bits:
    """Bits of a header, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self.left:
            raise ValueError("its header is cut off")
        value = self.value & ((1 << count) - 1)
        self.value, self.left = self.value >> count, self.left - count
        return value
