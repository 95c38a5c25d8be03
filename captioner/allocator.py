"""The C library's allocator, set for a program that makes and drops the same large tensors over and over."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Have freed memory kept for the next tensor and not handed back to the system, which would have to clear every page anew.

    Encoding pictures on a CPU gets about 15 % faster. Does nothing where the C library is not glibc.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20)):
                library.mallopt(option, value)
