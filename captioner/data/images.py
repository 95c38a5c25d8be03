"""Any file a person has to a clean RGB picture, or one :class:`ImageError` that names the file and the reason.

The road of a photo is :func:`~captioner.data.find.find_images`, :func:`load_image`, then ``pixels`` and ``normalise``
of :class:`~captioner.data.transform.Transform`; :class:`~captioner.data.loader.ImageLoader` walks it for many photos at
a time.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import stat
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from PIL import Image, ImageFile

from captioner.errors import CaptionerError, ConfigError, ImageError

if TYPE_CHECKING:
    import numpy as np
    import torch

ImageSource: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray[Any, Any] | torch.Tensor"

DEFAULT_MAX_PIXELS = 178_956_970
"""The most pixels a picture may have: above this, a small file that claims to be enormous is likelier than a photo."""

# Only formats that Pillow decodes by itself: EPS would run Ghostscript. TGA is last, since it has no magic number.
# HEIF, which pi-heif decodes, is told by its brand before any of them is tried.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "CUR", "TGA")

_POSTSCRIPT = "PostScript (EPS) is a program, which Captioner will not run; export it as PNG or JPEG"
_NO_HEIF = "HEIC photos are read by the package pi-heif, which {}; pip install -U pi-heif, or convert the photo to JPEG"
_JPEG_XL = "JPEG XL cannot be read; convert it to PNG or JPEG"
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_GENERAL_BRANDS = {b"mif1", b"mif2", b"msf1"}
_VIDEO = "this is a video, not a picture; save one frame of it as JPEG"
_ARCHIVE = "this is an archive, not a picture; unpack it first"
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (  # (offset, magic bytes there, reason)
    (0, b"%!PS", _POSTSCRIPT),
    (0, b"\xc5\xd0\xd3\xc6", _POSTSCRIPT),
    (0, b"%PDF", "this is a PDF document, not a picture; export the page as PNG or JPEG"),
    (0, b"8BPS", "Photoshop files cannot be read; export it as PNG or JPEG"),
    (0, b"\xff\x0a", _JPEG_XL),
    (0, b"\0\0\0\x0cJXL ", _JPEG_XL),
    (4, b"ftypmp4", _VIDEO),
    (4, b"ftypiso", _VIDEO),
    (4, b"ftypqt", _VIDEO),
    (0, b"\x1aE\xdf\xa3", _VIDEO),
    (0, b"PK\x03\x04", _ARCHIVE),
    (0, b"\x1f\x8b", _ARCHIVE),
)

_Turn = Image.Transpose
_TURNS = {  # EXIF orientation -> what makes the picture upright
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}

_ISPE = re.compile(rb"\0\0\0\x14ispe\0\0\0\0(.{8})", re.DOTALL)  # HEIF's box of an image's width and height
_PADDING = 63  # pixels that an encoder may add to each side, to have whole blocks
_PILLOW = re.compile(r"PIL\.")
# Without any handler Python prints a library's log warnings to the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def load_image(source: ImageSource, *, max_pixels: int | None = None, min_size: int | None = None) -> Image.Image:
    """Read a picture of any kind as upright 8-bit RGB.

    EXIF orientation is applied, of an animation the first frame is taken, transparency is laid over white, 16-bit grey
    is scaled to 8 bits. Float and 32-bit integer pictures keep 0..1 (float alone), 0..255 or 0..65535 (integers alone)
    as black to white where they fit into such a range, and are stretched from lowest to highest value otherwise.

    Args:
        source: a file's name; an encoded file's bytes; a Pillow image; an array ``(H, W)`` or ``(H, W, C)``; or a
            tensor ``(C, H, W)``, ``(H, W, C)`` or ``(H, W)``, with C in 1, 3, 4 and values uint8 or floats in 0..1.
        max_pixels: refuse pictures with more pixels than this, before decoding them; by default the environment
            variable ``CAPTIONER_MAX_PIXELS``, or else ``DEFAULT_MAX_PIXELS``.
        min_size: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its scale, several times faster, as long as both
            sides stay at or above this many pixels. Other formats, and pictures already in memory, ignore it.

    Returns:
        A new image of mode ``RGB`` without metadata, so that nothing turns it a second time.

    Raises:
        ImageError: the picture cannot be read; the error names it and says why and what to do.
        ConfigError: the pixel limit is not a whole number above 0.
    """
    limit = pixel_limit(max_pixels)
    name = _describe(source)
    kind = "picture"
    is_values = _is_tensor(source) or _is_array(source)
    _silence_pillow()
    try:
        if isinstance(source, Image.Image):
            _check_size(source.size, name, limit)
            return _clean(source)
        if is_values:
            return _clean(_from_array(source, name, limit))
        with _open_stream(source, name) as stream:
            image = _identify(stream, name)
            kind = {"HEIF": "HEIC"}.get(image.format or kind, image.format or kind)
            _check_size(image.size, name, limit)
            for width, height in _coded_sizes(stream) if kind == "HEIC" else ():
                if max(width - _PADDING, 0) * max(height - _PADDING, 0) > limit:
                    _check_size((width, height), name, limit)
            if min_size and kind != "HEIC":  # a thumbnail in a HEIF file may show something else
                image.draft(None, (min_size, min_size))
            return _clean(image)
    except CaptionerError:
        raise
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        raise ImageError(name, _reason(error, kind)) from error


def pixel_limit(max_pixels: int | None = None) -> int:
    """The limit that holds: ``max_pixels``, or else the variable ``CAPTIONER_MAX_PIXELS``, or else the default.

    Raises:
        ConfigError: the value is not a whole number above 0.
    """
    value = os.environ.get("CAPTIONER_MAX_PIXELS") or DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels
    try:
        limit = int(value)
    except ValueError:
        limit = 0
    if limit < 1:
        name = "CAPTIONER_MAX_PIXELS" if max_pixels is None else "max_pixels"
        raise ConfigError(f"{name}: {value!r} is no number of pixels; give a whole number above 0, such as 500000000")
    return limit


def digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal, by which byte-identical photos are found; the file is streamed.

    Raises:
        ImageError: the file is missing, empty, or cannot be read.
    """
    checksum = hashlib.sha256()
    with _open_stream(path, str(path)) as stream:
        try:
            while block := stream.read(1 << 20):
                checksum.update(block)
        except OSError as error:
            raise ImageError(path, _reason(error, "file")) from error
    return checksum.hexdigest()


def _describe(source: Any) -> str:
    """What an error calls the source."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or f"image of {source.width}x{source.height}, mode {source.mode}")
    if _is_tensor(source) or _is_array(source):
        kind = "tensor" if _is_tensor(source) else "array"
        return f"{kind} of shape {tuple(source.shape)}, dtype {str(source.dtype).removeprefix('torch.')}"
    return f"object of type {type(source).__name__}"


def _is_tensor(source: Any) -> bool:
    # Whoever has a tensor has imported torch. Another thread may be importing it just now: then it has no Tensor yet.
    return isinstance(source, getattr(sys.modules.get("torch"), "Tensor", ()))


def _is_array(source: Any) -> bool:
    return isinstance(source, getattr(sys.modules.get("numpy"), "ndarray", ()))


def _open_stream(source: Any, name: str) -> IO[bytes]:
    """A stream of an ordinary file's or a buffer's bytes; never waits on a pipe or a device."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise ImageError(name, "there are no bytes in it; give the content of a picture file")
        return io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(name, "not a picture; give a file's name or bytes, a Pillow image, an array or a tensor")
    try:
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(name, "this is a folder, not a picture; name the pictures in it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(name, "this is a pipe, socket or device, not a file; save the picture as a file first")
        if status.st_size == 0:
            raise ImageError(name, "the file is empty (0 bytes); get a fresh copy of it")
        return open(source, "rb")
    except FileNotFoundError as error:
        if name.lower().startswith(("http://", "https://")):
            raise ImageError(name, "this is a web address; download the picture first") from error
        link = " (a link to a file that is gone)" if os.path.islink(source) else ""
        raise ImageError(name, f"there is no such file{link}; check the name") from error
    except PermissionError as error:
        raise ImageError(name, "no permission to read it; ask its owner, or change its permissions") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        detail = getattr(error, "strerror", None) or error
        raise ImageError(name, f"cannot be opened ({detail}); check the name") from error


def _identify(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Read the header of a picture in one of the allowed formats.

    This does what ``Image.open(formats=...)`` does, without its own limit on pixels, which is one variable for all
    threads, and without forgetting which format the file claimed to be when it turns out damaged.
    """
    head = stream.read(1024)
    if _is_heif(head):
        return _open_heif(stream, name)
    magic = head[:16].ljust(16, b"\0")  # some of Pillow's checks fail on fewer bytes
    failure = None
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
            stream.seek(0)
            try:
                return factory(stream, "")
            except Exception as error:
                if kind not in ("CUR", "TGA"):  # a TGA file may begin like a CUR file, and anything like a TGA file
                    failure = _reason(error, kind)
    unknown = "not a picture of a known kind; give a JPEG, PNG, WebP, GIF, BMP or TIFF file"
    raise ImageError(name, _foreign(head) or failure or unknown)


def _is_heif(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is HEIF with pictures coded as HEVC: HEIC, as phones and cameras write it."""
    if head[4:8] != b"ftyp":
        return False
    # The major brand, then a version, then the brands that the file is compatible with, until the box ends.
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, end, 4))}
    # "mif1" and "msf1" are general: AVIF files begin so, too, and name AVIF further on.
    return not brands & _AVIF_BRANDS and (head[8:12] in _GENERAL_BRANDS or bool(brands & _HEIC_BRANDS))


def _open_heif(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Read the header of a HEIF picture; pi-heif, which takes a while to load, is imported for the first of them.

    The size is that of the upright picture, and its EXIF orientation 1: HEIF has a turn of its own, which the decoder
    applies.
    """
    try:
        from pi_heif.as_plugin import HeifImageFile
    except ImportError as error:
        state = (
            "is not installed"
            if isinstance(error, ModuleNotFoundError)
            else f"does not load here ({' '.join(str(error).split())})"
        )
        raise ImageError(name, _NO_HEIF.format(state)) from error
    stream.seek(0)
    try:
        return HeifImageFile(stream)  # by itself: registering it would change Pillow for the whole program
    except Exception as error:
        raise ImageError(name, _reason(error, "HEIC")) from error


def _coded_sizes(stream: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Width and height in pixels of each image that a HEIF file says it holds: a crop to a small one may have to decode a huge one first.

    libheif decodes none that is larger than the file says here.
    """
    end = stream.seek(0, os.SEEK_END)
    start = 0
    while start + 8 <= end:
        stream.seek(start)
        header = stream.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size == 0:  # the last box
            size = end - start
        if size < 8:
            return
        if kind == b"meta":
            stream.seek(start)
            for found in _ISPE.finditer(stream.read(size)):
                width, height = struct.unpack(">II", found[1])
                yield width, height
        start += size


def _foreign(head: bytes) -> str | None:
    """Why a file that begins with ``head`` is refused, if it is of a known kind that is not read."""
    for offset, magic, reason in _FOREIGN:
        if head.startswith(magic, offset):
            return reason
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "this is a web page, not a picture; the download went wrong, fetch it again"
    if text.startswith(b"<") and b"<svg" in text:
        return "SVG drawings cannot be read; export it as PNG"
    return None


def _reason(error: Exception, kind: str) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory to decode it; make it smaller, or free memory"
    if isinstance(error, Image.DecompressionBombError):
        return "it claims more pixels than could be decoded safely; make it smaller"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"cannot be read ({error.strerror}); check the disk or the network it is on"
    detail = " ".join(str(error).split()) or type(error).__name__
    return f"damaged or truncated {kind} ({detail}); get a fresh copy of it"


def _check_size(size: tuple[int, int], name: str, limit: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(name, f"it has no pixels ({width} x {height}); give a picture at least 1 pixel wide and high")
    if width * height > limit:
        raise ImageError(
            name,
            f"{width} x {height} is {width * height:,} pixels, above the limit of {limit:,}; make it smaller, or, if "
            "you trust the file, raise max_pixels or the environment variable CAPTIONER_MAX_PIXELS",
        )


def _clean(image: Image.Image) -> Image.Image:
    """Decode, and turn any mode into upright RGB without metadata."""
    image.load()
    turn = _turn(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    rgb = image.convert("RGB")  # always a new image: the caller's is never given back
    if turn is not None:
        rgb = rgb.transpose(turn)
    rgb.info = {}
    return rgb


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:  # after load(): a TIFF is then upright already, a PNG may carry EXIF behind its pixels
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF does not make the pixels unreadable
        return None


def _to_grey(image: Image.Image) -> Image.Image:
    """Deep grey (16-bit, 32-bit or float) to 8 bits; NaN becomes black."""
    import numpy as np

    values = np.asarray(image).astype(np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    whites = {"I": (255.0, 65535.0), "F": (1.0, 255.0)}.get(image.mode, (65535.0,))
    if low >= 0 and high <= whites[-1]:
        low, high = 0.0, next(white for white in whites if high <= white)
    with np.errstate(all="ignore"):
        values = (values - low) * (255 / (high - low) if high > low else 0.0)
    return Image.fromarray(np.nan_to_num(values).clip(0, 255).round().astype(np.uint8))


def _from_array(source: Any, name: str, limit: int) -> Image.Image:
    import numpy as np

    if _is_tensor(source):
        tensor = source.detach().cpu()
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy knows no bfloat16
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            array = array.transpose(1, 2, 0)
    else:
        array = np.asarray(source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(name, "not the shape of one picture; give height x width, with 1, 3 or 4 channels last")
    _check_size((array.shape[1], array.shape[0]), name, limit)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not -1e-3 <= low <= high <= 1 + 1e-3:  # false for NaN too; what resizing overshoots is forgiven
            raise ImageError(name, f"values from {low:g} to {high:g}; floats must be in 0..1, so divide by 255 or clip")
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(name, "values must be uint8 in 0..255 or floats in 0..1; convert them first")
    return Image.fromarray(np.ascontiguousarray(array))


def _silence_pillow() -> None:
    """Keep Pillow's warnings (damaged EXIF and the like) off the terminal: what matters becomes an ImageError.

    One filter for Pillow's modules alone, put first and left there: ``catch_warnings`` exchanges a list that all
    threads share, so that threads loading pictures would undo each other's and the caller's filters.
    """
    if not warnings.filters or warnings.filters[0][3] != _PILLOW:
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)
