"""The sources of images: files, parts of packed files, and bytes in memory."""

from __future__ import annotations

import os
import stat
from typing import IO, Any

from PIL import Image

from captioner.data.arrays import is_array, is_tensor
from captioner.data.names import shortened_name, why_no_file
from captioner.data.packed import read_packed
from captioner.data.streams import CountedBytes, CountedFile
from captioner.errors import ImageError


def name_of(source: Any) -> str:
    """Return the name of a source in messages: a file's name, or a description."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or f"image of {source.width}x{source.height}, mode {source.mode}")
    if is_tensor(source) or is_array(source):
        kind = "tensor" if is_tensor(source) else "array"
        return f"{kind} of shape {tuple(source.shape)}, dtype {str(source.dtype).removeprefix('torch.')}"
    return f"object of type {type(source).__name__}"


def open_source(source: Any, name: str) -> IO[bytes]:
    """Open a regular file, an image inside a packed file, or bytes; never wait for a pipe or a device.

    Raises:
        ImageError: there is no such file, it cannot be read, or it is empty; or the source is something else.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise ImageError(name, "there are no bytes in it; give the content of an image file")
        return CountedBytes(bytes(source), name)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(name, "not an image; give a file's name or bytes, a Pillow image, an array or a tensor")
    if (packed := read_packed(name)) is not None:
        return CountedBytes(packed, name)
    try:
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(name, "this is a folder, not an image; name the images in it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(name, "this is a pipe, socket or device, not a file; save the image as a file first")
        if status.st_size == 0:
            raise ImageError(name, "the file is empty (0 bytes); get a fresh copy of it")
        return CountedFile(name, name, status.st_size)
    except FileNotFoundError as error:
        if reason := why_no_file(name):
            raise ImageError(shortened_name(name), reason) from error
        link = " (a link to a file that is gone)" if os.path.islink(source) else ""
        pattern = ", and none that it matches as a pattern" if any(letter in name for letter in "*?[") else ""
        raise ImageError(name, f"there is no such file{link}{pattern}; check the name") from error
    except PermissionError as error:
        raise ImageError(name, "no permission to read it; ask its owner, or change its permissions") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        if reason := why_no_file(name):
            raise ImageError(shortened_name(name), reason) from error
        detail = getattr(error, "strerror", None) or error
        raise ImageError(name, f"cannot be opened ({detail}); check the name") from error
