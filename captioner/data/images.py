"""Any file a person has to a clean RGB picture, or one :class:`ImageError` that names the file and the reason.

The road of a photo is :func:`find_images`, :func:`load_image`, :meth:`Transform.pixels`, :meth:`Transform.normalise`;
:class:`ImageLoader` walks it for many photos at a time. Letters in shapes: B pictures in a batch, S the transform's
size in pixels.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import stat
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from PIL import Image, ImageFile
from pydantic import BaseModel, ConfigDict, Field

from captioner.errors import CaptionerError, ConfigError, ImageError

if TYPE_CHECKING:
    import numpy as np
    import torch

ImageSource: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray[Any, Any] | torch.Tensor"

DEFAULT_MAX_PIXELS = 178_956_970
"""The most pixels a picture may have: above this, a small file that claims to be enormous is likelier than a photo."""

IMAGE_EXTENSIONS: frozenset[str] = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "ico", "cur"),
        *("ppm", "pgm", "pbm", "pnm", "pfm", "avif", "avifs", "tga", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
        *("heic", "heif"),
    )
)
"""What counts as a picture inside a folder, in lower case.

HEIC, which cannot be read, is here so that a phone's photos are reported and not passed over in silence.
"""

# Only formats that Pillow decodes by itself: EPS would run Ghostscript. TGA is last, since it has no magic number.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "CUR", "TGA")

_POSTSCRIPT = "PostScript (EPS) is a program, which Captioner will not run; export it as PNG or JPEG"
_HEIC = "HEIC photos cannot be read; convert it to JPEG (on a phone: camera format 'most compatible')"
_JPEG_XL = "JPEG XL cannot be read; convert it to PNG or JPEG"
_VIDEO = "this is a video, not a picture; save one frame of it as JPEG"
_ARCHIVE = "this is an archive, not a picture; unpack it first"
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (  # (offset, magic bytes there, reason)
    (0, b"%!PS", _POSTSCRIPT),
    (0, b"\xc5\xd0\xd3\xc6", _POSTSCRIPT),
    (0, b"%PDF", "this is a PDF document, not a picture; export the page as PNG or JPEG"),
    (0, b"8BPS", "Photoshop files cannot be read; export it as PNG or JPEG"),
    (4, b"ftyphei", _HEIC),
    (4, b"ftyphev", _HEIC),
    (4, b"ftypmif1", _HEIC),
    (4, b"ftypmsf1", _HEIC),
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
            kind = image.format or kind
            _check_size(image.size, name, limit)
            if min_size:
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


def find_images(paths: Iterable[str | Path], *, recursive: bool = False, on_empty: Callable[[str], None] | None = None) -> Iterator[Path]:
    """The picture files that ``paths`` mean, lazily, sorted by name within each of ``paths``.

    A file stands for itself, whatever its extension. A folder stands for the files in it that have one of
    ``IMAGE_EXTENSIONS``; with ``recursive`` also for those of its subfolders, each folder visited once even if links
    lead in a circle. Hidden files and folders are left out. A name that does not exist is a glob pattern if it holds
    ``*``, ``?`` or ``[``, with ``**`` for any number of folders; it stands for what the shell would put in its place,
    but one that ends in a bare ``*`` or ``**`` for pictures alone. What matches nothing is given back as it is, so
    that loading reports it.

    Args:
        paths: files, folders and glob patterns.
        recursive: look into subfolders too.
        on_empty: is told, in a sentence, about each folder that holds no pictures or cannot be opened.
    """
    tell = on_empty or (lambda message: None)
    for path in map(Path, paths):
        for hit in [path] if os.path.lexists(path) else _glob(path):
            if not os.path.isdir(hit):
                yield hit
                continue
            empty = True
            for picture in _walk(hit, recursive, set(), tell):
                empty = False
                yield picture
            if empty:
                hint = "" if recursive else " (use --recursive to look in subfolders)"
                tell(f"{hit}{os.sep}: no pictures in this folder{hint}")


def _walk(folder: Path, recursive: bool, seen: set[str], tell: Callable[[str], None]) -> Iterator[Path]:
    seen.add(os.path.realpath(folder))
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        tell(f"{folder}{os.sep}: cannot look into this folder ({error.strerror}); check its permissions")
        return
    for path in (folder / name for name in names if not name.startswith(".")):
        if os.path.isdir(path):
            if recursive and os.path.realpath(path) not in seen:
                yield from _walk(path, recursive, seen, tell)
        elif path.suffix.lower() in IMAGE_EXTENSIONS:
            yield path


def _glob(path: Path) -> list[Path]:
    """The files and folders that match a pattern, sorted; ``[path]`` if there are none."""
    parts = list(path.parts)
    base = Path()
    while parts and os.path.lexists(base / parts[0]):  # names that exist are names, whatever characters they hold
        base /= parts.pop(0)
    if not any(character in part for part in parts for character in "*?["):
        return [path]
    reaches_down = "**" in parts  # then its files are hits themselves, and its folders need no second look
    any_name = parts[-1] in ("*", "**")
    show_hidden = any(part.startswith(".") for part in parts)
    hits = []
    try:
        for hit in base.glob(os.path.join(*parts, "*") if parts[-1] == "**" else os.path.join(*parts)):
            if not show_hidden and any(part.startswith(".") for part in hit.relative_to(base).parts):
                continue
            is_picture = hit.suffix.lower() in IMAGE_EXTENSIONS
            if (not reaches_down) if os.path.isdir(hit) else (is_picture or not any_name):
                hits.append(hit)
    except (ValueError, OSError):  # not a pattern after all, such as "a**b"
        pass
    return sorted(hits) or [path]


class Transform(BaseModel):
    """How a photo becomes an encoder's input; part of the encoder's config, so that use sees what training saw.

    Attributes:
        size: side of the square the encoder takes, in pixels (S).
        fit: ``squash`` shows the whole photo and gives up its shape; ``crop`` keeps the shape and shows the middle.
        crop_fraction: for ``crop``, the share of the shorter side that is kept.
        interpolation: Pillow's antialiased filter.
        mean: per channel (R, G, B), of values in 0..1.
        std: per channel (R, G, B), of values in 0..1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=448, ge=1)
    fit: Literal["squash", "crop"] = "squash"
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]

    @property
    def decode_size(self) -> int:
        """The ``min_size`` for :func:`load_image`.

        It is twice what is needed, so that a JPEG decoded at a reduced scale gives all but the same pixels (of a
        24-megapixel photo: 0.2 of 255 off on average, 2 at most).
        """
        return 2 * (self.size if self.fit == "squash" else round(self.size / self.crop_fraction))

    def pixels(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The part of an RGB ``image`` that the encoder sees, as a contiguous uint8 array ``(3, S, S)``."""
        import numpy as np

        resample = Image.Resampling[self.interpolation.upper()]
        box = self._box(image.size)
        if self.fit == "squash" and image.height > 64 * image.width:
            # Pillow resizes widths first, and a strip of 1 x 1,000,000 pixels would become 448 x 1,000,000 on the way.
            image = image.resize((image.width, self.size), resample)
            box = self._box(image.size)
        square = image.resize((self.size, self.size), resample, box=box)
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

    def place(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The box of a photo of ``(width, height)`` that the encoder sees: x0, y0, x1, y1, each relative, in 0..1."""
        width, height = image_size
        x0, y0, x1, y1 = self._box(image_size)
        return (x0 / width, y0 / height, x1 / width, y1 / height)

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 pixels ``(B, 3, S, S)`` to float32 ``(value / 255 - mean) / std``, on the device they are on."""
        import torch

        mean = torch.tensor(self.mean, device=batch.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(3, 1, 1)
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)

    def _box(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The box in the photo's own pixels.

        For ``crop`` it is where resizing and then cropping would cut, at whole pixels of the resized photo; the resized
        photo is never made, since that of a very long one would not fit into memory.
        """
        width, height = image_size
        if self.fit == "squash":
            return (0.0, 0.0, float(width), float(height))
        short = round(self.size / self.crop_fraction)
        resized = (
            short if width <= height else int(short * width / height),
            short if height <= width else int(short * height / width),
        )
        left, top = (round((side - self.size) / 2) for side in resized)
        x, y = width / resized[0], height / resized[1]
        return (left * x, top * y, min((left + self.size) * x, width), min((top + self.size) * y, height))


@dataclass(frozen=True)
class ImageBatch:
    """Pictures ready for an encoder, and the errors met on the way to them.

    Attributes:
        pixels: uint8 ``(B, 3, S, S)``, the good pictures only; B may be 0.
        sources: B sources as they were given.
        positions: B places in the input, counted from 0.
        places: B boxes of the pictures that the encoder sees, relative xyxy; see :meth:`Transform.place`.
        errors: the place in the input and the error of each bad picture, in order.
    """

    pixels: torch.Tensor
    sources: list[ImageSource]
    positions: list[int]
    places: list[tuple[float, float, float, float]]
    errors: list[tuple[int, ImageError]]

    def __len__(self) -> int:
        return len(self.sources)


_Loaded: TypeAlias = "tuple[np.ndarray[Any, Any], tuple[float, float, float, float]]"


class ImageLoader:
    """Loads many pictures in threads and yields them in batches, in the order of the input.

    Threads and not processes, since Pillow lets go of Python's lock while it decodes and resizes. ``sources`` may be
    endless: no more than ``(prefetch + 1) * batch_size`` of them are held at a time.

    A bad picture costs no good one: batches are filled with good pictures, and the errors met while filling one come
    with it. A batch holds fewer than ``batch_size`` pictures, perhaps none, only at the end of the input or after
    ``(prefetch + 1) * batch_size`` errors in one batch.

    Args:
        sources: anything :func:`load_image` takes; walked once per iteration.
        transform: makes each picture the encoder's input.
        batch_size: pictures in a batch.
        workers: threads.
        max_pixels: see :func:`load_image`.
        prefetch: batches that are loaded ahead of the one in use.

    Raises:
        ConfigError: a number is too small.
    """

    def __init__(
        self,
        sources: Iterable[ImageSource],
        transform: Transform,
        *,
        batch_size: int = 8,
        workers: int = min(4, os.cpu_count() or 1),
        max_pixels: int | None = None,
        prefetch: int = 2,
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 1), ("prefetch", prefetch, 0)):
            if value < least:
                raise ConfigError(f"{name}: {value} is too small; give {least} or more")
        self.sources = sources
        self.transform = transform
        self.batch_size = batch_size
        self.workers = workers
        self.max_pixels = pixel_limit(max_pixels)
        self.prefetch = prefetch

    def __iter__(self) -> Iterator[ImageBatch]:
        window = (self.prefetch + 1) * self.batch_size
        incoming = enumerate(self.sources)
        pending: deque[tuple[int, ImageSource, Future[_Loaded | ImageError]]] = deque()
        good: list[tuple[int, ImageSource, _Loaded]] = []
        errors: list[tuple[int, ImageError]] = []
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="captioner-images")
        try:
            while True:
                for position, source in islice(incoming, window - len(pending) - len(good)):
                    pending.append((position, source, pool.submit(self._load, source)))
                if not pending:
                    break
                position, source, future = pending.popleft()
                result = future.result()
                if isinstance(result, ImageError):
                    errors.append((position, result))
                else:
                    good.append((position, source, result))
                if len(good) == self.batch_size or len(errors) == window:
                    yield self._batch(good, errors)
                    good, errors = [], []
            if good or errors:
                yield self._batch(good, errors)
        finally:  # also when the caller stops early
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, source: ImageSource) -> _Loaded | ImageError:
        try:
            image = load_image(source, max_pixels=self.max_pixels, min_size=self.transform.decode_size)
            return self.transform.pixels(image), self.transform.place(image.size)
        except ImageError as error:
            return ImageError(error.source, error.reason)  # anew: a traceback would keep the picture in memory

    def _batch(self, good: list[tuple[int, ImageSource, _Loaded]], errors: list[tuple[int, ImageError]]) -> ImageBatch:
        import numpy as np
        import torch

        size = self.transform.size
        pixels = np.stack([row[2][0] for row in good]) if good else np.empty((0, 3, size, size), dtype=np.uint8)
        return ImageBatch(torch.from_numpy(pixels), [row[1] for row in good], [row[0] for row in good], [row[2][1] for row in good], errors)


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


def _foreign(head: bytes) -> str | None:
    """Why a file that begins with ``head`` is refused, if it is of a known kind that is not read."""
    for offset, magic, reason in _FOREIGN:
        if head.startswith(magic, offset):
            # "mif1" is also how some AVIF files begin; they name AVIF further on.
            return None if reason == _HEIC and b"avif" in head[:64] else reason
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
