"""Raw photos of cameras, developed by LibRaw, if the package rawpy is installed."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from captioner.data.pixel_limit import check_size
from captioner.errors import ImageError, first_line
from captioner.machine.packages import install

if TYPE_CHECKING:
    from PIL import Image

RAW_EXTENSIONS: frozenset[str] = frozenset(
    f".{name}"
    for name in (
        *("3fr", "arw", "cr2", "cr3", "dcr", "dng", "erf", "iiq", "kdc", "mef", "mos", "mrw", "nef", "nrw", "orf"),
        *("pef", "raf", "rw2", "rwl", "sr2", "srf", "srw", "x3f"),
    )
)
"""Extensions of raw photos, in lower case."""

# Magic bytes of raw photos that have some of their own, each at its offset; the others begin like a TIFF.
_MAGIC = (
    *((0, b"FUJIFILMCCD-RAW"), (4, b"ftypcrx"), (8, b"CR\x02")),
    *((0, magic) for magic in (b"IIRO", b"IIRS", b"IIU\0", b"FOVb")),
)


@cache
def can_read_raw() -> bool:
    """Return whether rawpy is installed."""
    return find_spec("rawpy") is not None


def is_raw(name: str, head: bytes) -> bool:
    """Return whether an image is a raw photo, by its name or its first bytes."""
    if any(head.startswith(magic, offset) for offset, magic in _MAGIC):
        return True
    return os.path.splitext(name)[1].lower() in RAW_EXTENSIONS and head[:2] in (b"II", b"MM")


def raw_size(stream: IO[bytes], name: str, limit: int) -> tuple[int, int]:
    """Return the width and height of a raw photo, before any rotation.

    Raises:
        ImageError: it cannot be read, or has more pixels than ``limit``.
    """
    with _Opened(stream, name) as photo:
        size = photo.sizes.iwidth, photo.sizes.iheight
    check_size(size, name, limit)
    return size


def open_raw(stream: IO[bytes], name: str, limit: int, min_size: int | None = None) -> Image.Image:
    """Develop a raw photo as upright 8-bit sRGB, with the camera's white balance.

    Args:
        stream: the file.
        name: of the photo, for errors.
        limit: most pixels.
        min_size: it may be developed at half its scale, if both sides keep at least this many pixels.

    Raises:
        ImageError: it cannot be read, or has more pixels than ``limit``.
    """
    width, height = raw_size(stream, name, limit)
    with _Opened(stream, name) as photo:
        from PIL import Image

        half = min_size is not None and min(width, height) >= 2 * min_size
        return Image.fromarray(photo.postprocess(use_camera_wb=True, half_size=half, output_bps=8))


class _Opened:
    """A context with an opened raw photo, whose errors are :class:`ImageError`."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self.stream, self.name = stream, name

    def __enter__(self) -> Any:
        try:
            import rawpy
        except ImportError:
            raise ImageError(
                self.name,
                f"raw photos need rawpy; run: {install('rawpy')}, or use the JPEG that the camera wrote next to it",
            ) from None
        self.stream.seek(0)
        try:
            self.photo = rawpy.imread(cast(BinaryIO, self.stream))
        except rawpy.LibRawError as error:
            raise self._error(error) from error
        return self.photo

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.photo.close()
        if error is not None and not isinstance(error, ImageError) and isinstance(error, Exception):
            raise self._error(error) from error

    def _error(self, error: Exception) -> ImageError:
        detail = first_line(error).removeprefix("b'").removesuffix("'")
        return ImageError(
            self.name, f"a raw photo that LibRaw does not read ({detail}); develop it, or get a fresh copy of it"
        )
