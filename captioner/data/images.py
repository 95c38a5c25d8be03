"""Reading image files as clean RGB, or raising an :class:`ImageError` with the file, the reason and what to do.

An image passes through :func:`~captioner.data.find.find_images`, :func:`load_image`, then ``pixels`` and ``normalise``
of :class:`~captioner.data.transform.Transform`; :class:`~captioner.data.loader.ImageLoader` does this for many images.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar

from PIL import Image, ImageOps

from captioner import files
from captioner.data.arrays import from_array, is_array, is_tensor, to_grey
from captioner.data.colour import to_srgb
from captioner.data.decoding_cost import (
    check_icons,
    check_jpeg,
    check_jpeg2000,
    check_tiff,
    check_tiles,
    jpeg2000_profile,
)
from captioner.data.foreign import foreign_reason
from captioner.data.formats import readable_formats
from captioner.data.heif import check_coded_sizes, is_heif, open_heif
from captioner.data.jxl import MAGIC, open_jxl
from captioner.data.libtiff import kept_messages, read_deep_planes
from captioner.data.pixel_limit import check_size, pixel_limit
from captioner.data.png import PngWithoutText, may_be_about_text, without_text
from captioner.data.raw import is_raw, open_raw, raw_size
from captioner.data.reasons import reason_for
from captioner.data.sources import name_of, open_source
from captioner.errors import CaptionerError, ImageError

if TYPE_CHECKING:
    import numpy as np
    import torch

T = TypeVar("T")
ImageSource: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray[Any, Any] | torch.Tensor"

# Formats that Pillow decodes without another program: EPS would run Ghostscript. TGA is last, since it has no magic
# number. HEIF, which pi-heif decodes, is recognised by its brand before these are tried.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "CUR", "TGA")

_CHECKS = {"JPEG": check_jpeg, "TIFF": check_tiff, "JPEG2000": check_jpeg2000, "ICO": check_icons, "CUR": check_icons}
_BMP_HEAD = 1 << 16  # bytes that a BMP may have in addition to its pixels, which take at most 2 each if compressed
_KINDS = {"HEIF": "HEIC", "MPO": "JPEG"}

_Turn = Image.Transpose
_TURNS = {  # EXIF orientation -> the transposition that makes the image upright
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}

_PILLOW = re.compile(r"PIL\.")
# Without any handler Python prints a library's log warnings to the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def load_image(source: ImageSource, *, max_pixels: int | None = None, min_size: int | None = None) -> Image.Image:
    """Read an image of any kind as upright 8-bit sRGB.

    EXIF orientation and an ICC profile are applied, the first frame of an animation is read, transparency becomes
    white, and 16-bit grey is scaled to 8 bits. A float or 32-bit integer image is scaled from the first of the ranges
    0..1 (float only), 0..255 and 0..65535 (integers only) that holds its values, or else from its lowest to its highest
    value.

    Args:
        source: a file's name, or that of an image inside a tar or Parquet file (:mod:`captioner.data.packed`); an
            encoded file's bytes; a Pillow image; an array ``(H, W)`` or ``(H, W, C)``; or a tensor ``(C, H, W)``,
            ``(H, W, C)`` or ``(H, W)``, with C in 1, 3, 4 and values uint8 or floats in 0..1.
        max_pixels: refuse images with more pixels before decoding them; by default the environment variable
            ``CAPTIONER_MAX_PIXELS``, or else :data:`~captioner.data.pixel_limit.DEFAULT_MAX_PIXELS`.
        min_size: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its scale, several times faster, if both sides keep at
            least this many pixels. Other formats and images in memory ignore it.

    Returns:
        A new image of mode ``RGB`` without metadata, which nothing rotates a second time.

    Raises:
        ImageError: the image cannot be read; the error names it, the reason and what to do.
        ConfigError: the pixel limit is not a whole number above 0.
    """
    limit = pixel_limit(max_pixels)
    name = name_of(source)
    silence_pillow()
    if not isinstance(source, Image.Image) and not is_tensor(source) and not is_array(source):
        with open_source(source, name) as stream:
            return _read(stream, name, lambda stream: _decode(stream, name, limit, min_size))
    with _reasons(name, "image"):
        image = source if isinstance(source, Image.Image) else from_array(source, name, limit)
        check_size(image.size, name, limit)
        return _clean(image, name)


def check_file(source: str | Path | bytes, *, max_pixels: int | None = None) -> tuple[int, int]:
    """Read only an image's header, which reveals most errors at once.

    Args:
        source: a file's name, or an encoded file's bytes.
        max_pixels: see :func:`load_image`.

    Returns:
        The width and height in the header, before any rotation.

    Raises:
        ImageError: there is no such file, it is not an image, or it has more pixels than ``max_pixels``.
    """
    name = name_of(source)
    silence_pillow()
    limit = pixel_limit(max_pixels)
    with open_source(source, name) as stream, kept_messages():
        if is_raw(name, stream.read(16)):
            return raw_size(stream, name, limit)
        return _read(stream, name, lambda stream: _identify(stream, name, limit)).size


def upright_size(source: str | Path) -> tuple[int, int]:
    """Return the width and height of an upright image by its header; only a JPEG's header has the orientation.

    Raises:
        ImageError: see :func:`check_file`.
    """
    width, height = check_file(source)
    with open_source(source, name_of(source)) as stream, suppress(Exception):  # not a JPEG, or damaged
        if Image.open(stream, formats=["JPEG"]).getexif().get(0x0112, 1) >= 5:
            return height, width
    return width, height


def digest(source: str | Path | bytes) -> str:
    """Return the SHA-256 of a file, or of an encoded file's bytes, in hexadecimal, to find byte-identical images.

    Raises:
        ImageError: the file is missing, empty, or cannot be read.
    """
    name = name_of(source)
    with open_source(source, name) as stream:
        try:
            return files.sha256(stream)
        except OSError as error:
            raise ImageError(name, reason_for(error, "file")) from error


def _read(stream: IO[bytes], name: str, read: Callable[[IO[bytes]], T]) -> T:
    """Read an image; if it is a PNG whose text may be at fault, read it again without."""
    try:
        return read(stream)
    except ImageError as error:
        if not may_be_about_text(error):
            raise
    return read(without_text(stream, name))


def _decode(stream: IO[bytes], name: str, limit: int, min_size: int | None) -> Image.Image:
    with kept_messages() as messages:
        with _reasons(name, "image", messages):
            stream.seek(0)
            if is_raw(name, stream.read(16)):
                return open_raw(stream, name, limit, min_size)
            image = _identify(stream, name, limit)
        format = image.format or "image"
        kind = _KINDS.get(format, format)
        with _reasons(name, kind, messages):
            if min_size and kind == "JPEG":
                image.draft(None, (min_size, min_size))
            return _clean(image, name)


@contextmanager
def _reasons(name: str, kind: str, messages: Sequence[str] = ()) -> Iterator[None]:
    """Turn any error into an :class:`ImageError`: a damaged file can make a decoder raise nearly any type of error."""
    try:
        yield
    except CaptionerError:
        raise
    except Exception as error:
        raise ImageError(name, reason_for(error, kind, messages[0] if messages else None)) from error


def _identify(stream: IO[bytes], name: str, limit: int) -> Image.Image:
    """Read the header of an image in one of the allowed formats, and check the cost of decoding it.

    Unlike ``Image.open(formats=...)``, it is free of Pillow's own limit on pixels, one variable for all threads, and
    its errors name the format of a damaged file.
    """
    stream.seek(0)
    head = stream.read(1024)
    if is_heif(head):
        with _reasons(name, "HEIC"):
            image = open_heif(stream, name)
            check_size(image.size, name, limit)
            check_coded_sizes(image, stream, name, limit)
            return image
    if head.startswith(MAGIC):
        with _reasons(name, "JPEG XL"):
            return open_jxl(stream, name, limit)
    magic = head[:16].ljust(16, b"\0")  # some of Pillow's checks fail on fewer bytes
    failure = cause = None
    Image.preinit()
    for kind in _FORMATS:
        if kind not in Image.OPEN:
            Image.init()
        if kind not in Image.OPEN or (kind == "TGA" and failure is not None):
            continue
        factory, accepts = Image.OPEN[kind]
        accepted = accepts is None or accepts(magic)
        if isinstance(accepted, str):
            failure = f"this Pillow was built without {kind}; install a newer one: pip install -U pillow"
        elif accepted:
            try:
                if kind in _CHECKS:
                    stream.seek(0)
                    _CHECKS[kind](stream, name, limit)
                stream.seek(0)
                image = factory(stream, "")
                check_size(image.size, name, limit)
                read_deep_planes(image)
                check_tiles(image, name)
                if kind == "AVIF":
                    check_coded_sizes(image, stream, name, limit)
            except ImageError:
                raise
            except Exception as error:
                if kind not in ("CUR", "TGA"):  # TGA files may begin like CUR files, and any file like TGA
                    failure, cause = reason_for(error, kind), error
            else:
                if image.tile and image.tile[0][0] == "bmp_rle":  # Pillow reads each run of pixels separately
                    stream.seek(0)
                    image.fp = io.BytesIO(stream.read(_BMP_HEAD + 3 * image.width * image.height))
                if kind == "JPEG2000":
                    image.info.setdefault("icc_profile", jpeg2000_profile(stream))
                if isinstance(stream, PngWithoutText):
                    image.info["icc_profile"] = stream.profile
                return image
    unknown = f"not an image of a known kind; give one of: {', '.join(readable_formats())}"
    raise ImageError(name, foreign_reason(head) or failure or unknown) from cause


def _clean(image: Image.Image, name: str) -> Image.Image:
    """Decode, and convert any mode to upright sRGB without metadata."""
    image.load()
    if image.mode == "La":  # Pillow converts it to no other mode
        image = image.convert("LA")
    try:  # after load(): a TIFF is upright by then, and a PNG may have EXIF data after its pixels
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF does not make the pixels unreadable
        turn = None
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        white_is_zero = getattr(image, "tag_v2", {}).get(262) == 0  # in a TIFF; Pillow inverts 8 bits only
        image = to_grey(image)
        if white_is_zero:
            image = ImageOps.invert(image)
    if profile:
        if image.has_transparency_data:
            image = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
        elif image.mode in ("1", "P"):
            image = image.convert("RGB")
        image = to_srgb(image, profile, name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(image, mask=image)
    else:
        rgb = image.convert("RGB")  # always a new image, never the caller's
    if turn is not None:
        rgb = rgb.transpose(turn)
    rgb.info = {}
    return rgb


def silence_pillow() -> None:
    """Keep Pillow's warnings (damaged EXIF and the like) off the terminal.

    One filter for Pillow's modules stays in place: ``catch_warnings`` replaces a list that all threads share, so
    threads that load images would undo each other's filters and the caller's.
    """
    if not warnings.filters or warnings.filters[0][3] != _PILLOW:
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)
