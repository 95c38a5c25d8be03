"""Ctrl-C, which libraries may take for an error of theirs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise a ``KeyboardInterrupt`` at the end of a block if Ctrl-C was pressed in it, also if a library caught that.

    It does nothing in a thread other than the main one, and where Ctrl-C is ignored.
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
