"""HEIF images coded as HEVC (HEIC), as phones and cameras write them; the package pi-heif decodes them."""

from __future__ import annotations

from typing import IO

from PIL import ImageFile

from captioner.data.heif_boxes import PADDING, check_item_kinds, coded_pixels
from captioner.data.pixel_limit import check_declared, check_size
from captioner.errors import ImageError

_NO_HEIF = "HEIC images are read by the package pi-heif, which {}; pip install -U pi-heif, or convert the image to JPEG"
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_GENERAL_BRANDS = {b"mif1", b"mif2", b"msf1"}


def is_heif(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is HEIF with images coded as HEVC."""
    if head[4:8] != b"ftyp":
        return False
    # The major brand, a version, then the compatible brands to the end of the box.
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, end, 4))}
    # AVIF files may begin with a general brand and name AVIF among the compatible ones.
    return not brands & _AVIF_BRANDS and (head[8:12] in _GENERAL_BRANDS or bool(brands & _HEIC_BRANDS))


def open_heif(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Read the header of a HEIF image.

    The size is that of the upright image and the EXIF orientation 1: the decoder applies HEIF's own rotation.

    Raises:
        ImageError: about ``name``: pi-heif cannot be imported.
        ValueError: it is damaged.
    """
    try:
        from pi_heif.as_plugin import HeifImageFile
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        state = "is not installed" if missing else f"does not load here ({' '.join(str(error).split())})"
        raise ImageError(name, _NO_HEIF.format(state)) from error
    stream.seek(0)
    check_item_kinds(stream.read())
    stream.seek(0)
    return HeifImageFile(stream)  # directly: registering it would change Pillow for the whole program


def check_coded_sizes(image: ImageFile.ImageFile, stream: IO[bytes], name: str, limit: int) -> None:
    """Check the coded images of a HEIF or AVIF file: a small image may be a crop of a huge one.

    Raises:
        ImageError: about ``name``: one is too large, or all together have far more pixels than ``image`` declares.
    """
    stream.seek(0)
    total, largest = coded_pixels(stream.read(), name)
    if max(largest[0] - PADDING, 0) * max(largest[1] - PADDING, 0) > limit:
        check_size(largest, name, limit)
    check_declared(total, image.size, name)
