"""Error messages of libtiff, which it would print to standard error, and 16-bit TIFFs that Pillow misreads.

libtiff reports errors through one function for the whole process, and Pillow keeps the printing one. Redirecting
the descriptor of standard error would also catch the output of other threads. This module replaces the function by one
that collects the messages of each thread and passes on those of other code. It finds libtiff through Pillow's own
module, which is linked to it. If that fails, as in builds with libtiff inside the module, libtiff continues to print.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from PIL import ImageFile, _imaging

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_local = threading.local()


@contextmanager
def kept_messages() -> Iterator[list[str]]:
    """Collect the first message of libtiff in this thread instead of printing it."""
    _replace()
    messages: list[str] = []
    _local.messages = messages
    try:
        yield messages
    finally:
        _local.messages = None


@cache
def _replace() -> Any:
    try:
        library = ctypes.CDLL(_imaging.__file__)
        set_handler = library.TIFFSetErrorHandler
        write = ctypes.pythonapi.PyOS_vsnprintf
    except (OSError, AttributeError, TypeError):
        return None

    def keep(module: bytes | None, text: bytes | None, arguments: Any) -> None:
        messages = getattr(_local, "messages", None)
        if messages is None:  # another part of the program uses libtiff
            if previous:
                previous(module, text, arguments)
        elif text and not messages:
            buffer = ctypes.create_string_buffer(500)
            write(buffer, ctypes.c_size_t(len(buffer)), ctypes.c_char_p(text), ctypes.c_void_p(arguments))
            messages.append(buffer.value.decode("utf-8", "replace").rstrip("."))

    kept = _HANDLER(keep)
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    address = set_handler(ctypes.cast(kept, ctypes.c_void_p))
    previous = _HANDLER(address) if address else None
    atexit.register(set_handler, address)  # threads may still decode after Python has removed the function
    return kept


def read_deep_planes(image: ImageFile.ImageFile) -> None:
    """Have libtiff read a TIFF of 16-bit colours in separate planes, which Pillow's reader takes for 8 bits."""
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(284) == 2 and tags.get(259, 1) == 1 and max(tags.get(258, (1,))) > 8 and len(image.getbands()) > 1:
        tags[259] = 8  # Pillow leaves compressed files to libtiff, which reads the tag in the file
        image._setup()  # type: ignore[attr-defined]
