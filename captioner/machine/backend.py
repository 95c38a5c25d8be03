"""The machine: devices, fast precisions, compiler, and the C library's allocator.

torch is imported inside functions, so the command line can configure the allocator first, and print help without torch.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from ctypes.util import find_library
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from captioner.errors import ConfigError, first_line

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def choose_device(name: str = "auto", *, number: int = 0) -> torch.device:
    """Return the device called ``name``; ``auto`` is the best one available.

    Args:
        name: the device.
        number: number of this process on the machine; ``auto`` gives each process its own GPU.

    Raises:
        ConfigError: there is no such device here.
    """
    device = _device(name, number)
    log.info("device %s (%s), fastest in %s", device, device_name(device), str(fast_dtype(device)).rpartition(".")[2])
    return device


def _device(name: str, number: int) -> torch.device:
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", number % torch.cuda.device_count()) if number else torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise ConfigError(f"device {name!r} is none of cpu, cuda, cuda:1 (or another number), mps and auto")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here ({first_line(error)}); try 'cpu' or 'auto'") from None
    return device


def has_gpu() -> bool:
    """Return whether torch has a GPU here. Where no driver of one is installed, torch is not imported."""
    if sys.platform == "darwin":
        driver = platform.machine() == "arm64"
    elif sys.platform == "win32":
        driver = find_library("nvcuda") is not None
    else:
        driver = any(os.path.exists(f"/dev/{name}") for name in ("nvidiactl", "kfd", "dxg"))
    return driver and find_spec("torch") is not None and _device("auto", 0).type != "cpu"


def device_name(device: torch.device) -> str:
    """Return the product name of an NVIDIA GPU, else the type of the device."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the device multiplies it faster than float32, else float32."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


@functools.cache
def can_compile() -> bool:
    """Return whether the machine has a compiler for ``torch.compile``; ``CAPTIONER_COMPILE=0`` turns it off."""
    if os.environ.get("CAPTIONER_COMPILE", "1") == "0":
        return False
    compiler = os.environ.get("CXX") or "g++"
    return any(shutil.which(name) for name in (compiler, "g++", "clang++", "c++"))


class CompiledFunction:
    """A function that is compiled at its first call, with an eager fallback.

    If a compiled call fails, the eager function is called; its own errors are raised.

    Args:
        function: the function to compile; it must have no side effects, since it may be called twice.
        eager: the fallback; ``None`` for the function itself.
        dynamic: whether sizes may differ between calls; ``None`` for torch's default.
    """

    def __init__(
        self, function: Callable[..., Any], *, eager: Callable[..., Any] | None = None, dynamic: bool | None = None
    ) -> None:
        self.function, self.eager, self.dynamic = function, eager or function, dynamic
        self._compiled: Callable[..., Any] | None = None
        self._broken = False

    def __call__(self, *args: Any) -> Any:
        if self._broken or not can_compile():
            return self.eager(*args)
        if self._compiled is None:
            import torch

            _quieten()
            self._compiled = torch.compile(self.function, dynamic=self.dynamic)
        try:
            return self._compiled(*args)
        except Exception as error:
            result = self.eager(*args)
            log.warning("torch.compile failed (%s); continuing without it, which is slower", first_line(error))
            self._broken = True
            return result


@functools.cache
def _quieten() -> None:
    """Hide the compiler's warnings about itself and about a missing GPU toolkit.

    This is permanent, since filters cannot be changed for one thread.
    """
    for module in ("_dynamo", "_inductor", "_functorch", "utils.cpp_extension"):
        warnings.filterwarnings("ignore", module=rf"torch\.{re.escape(module)}")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def keep_freed_memory() -> None:
    """Keep freed memory in the process for the next tensor, as the system would clear returned memory.

    Encoding images on a CPU becomes about 15 % faster. Without glibc, this has no effect.
    """
    _with_glibc(
        lambda library: [
            library.mallopt(option, value)
            for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20))
        ]
    )


def return_freed_memory() -> None:
    """Return the unused memory that :func:`keep_freed_memory` keeps to the system; takes milliseconds."""
    _with_glibc(lambda library: library.malloc_trim(ctypes.c_size_t(64 << 20)))


def _with_glibc(function: Callable[[ctypes.CDLL], object]) -> None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            if hasattr(library, "gnu_get_libc_version"):
                function(library)
