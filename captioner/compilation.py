"""``torch.compile`` where it works, and the same numbers more slowly where it does not."""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch

from captioner.errors import first_line

log = logging.getLogger(__name__)


@functools.cache
def can_compile() -> bool:
    """Tell whether ``torch.compile`` has what it needs on this machine; ``CAPTIONER_COMPILE=0`` switches it off."""
    if os.environ.get("CAPTIONER_COMPILE", "1") == "0":
        return False
    compiler = os.environ.get("CXX") or "g++"
    return any(shutil.which(name) for name in (compiler, "g++", "clang++", "c++"))


class Compiled:
    """A function that is compiled at its first call, or an equal one where that is impossible.

    An error of a compiled call counts as one of the compiler only if the plain function then gives a result; if that fails too, its error is the caller's.

    Args:
        function: what to compile; it must change nothing, as it may be called twice.
        eager: what to call where nothing can be compiled; ``None`` is the function itself.
        dynamic: whether sizes may differ from call to call; ``None`` leaves that to torch.
    """

    def __init__(self, function: Callable[..., Any], *, eager: Callable[..., Any] | None = None, dynamic: bool | None = None) -> None:
        self.function, self.eager, self.dynamic = function, eager or function, dynamic
        self._compiled: Callable[..., Any] | None = None
        self._broken = False

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        if self._broken or not can_compile():
            return self.eager(*args)
        if self._compiled is None:
            _quieten()
            self._compiled = torch.compile(self.function, dynamic=self.dynamic)
        try:
            return self._compiled(*args)
        except Exception as error:
            result = self.eager(*args)
            log.warning("torch.compile failed (%s); going on without it, slower", first_line(error))
            self._broken = True
            return result


@functools.cache
def _quieten() -> None:
    """Hide what the compiler says of itself and of a missing GPU toolkit: once and for good, since filters cannot be changed for one thread alone."""
    for module in ("_dynamo", "_inductor", "_functorch", "utils.cpp_extension"):
        warnings.filterwarnings("ignore", module=rf"torch\.{re.escape(module)}")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
