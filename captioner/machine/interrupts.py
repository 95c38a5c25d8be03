"""Ctrl-C, also where a library catches it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` at the end of a block if Ctrl-C was pressed, even if a library caught it.

    Does nothing outside the main thread, or where Ctrl-C is ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        if callable(before):
            before(number, frame)

    if not callable(before):
        yield
        return
    try:
        signal.signal(signal.SIGINT, press)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    except BaseException as error:
        done = isinstance(error, SystemExit) and not error.code
        if pressed and not done and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
