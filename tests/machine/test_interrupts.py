"""Ctrl-C ends a command, also if a library catches it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from captioner.machine.interrupts import interruptible


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_passes_through_libraries() -> None:
    def wrapped() -> None:
        try:
            press()
        except KeyboardInterrupt:
            raise RuntimeError("cannot export this part") from None

    def swallowed() -> None:
        with suppress(KeyboardInterrupt):
            press()

    def exited() -> None:
        try:
            press()
        except KeyboardInterrupt:
            sys.exit(1)

    before = signal.getsignal(signal.SIGINT)
    for work in (press, wrapped, swallowed, exited):
        with pytest.raises(KeyboardInterrupt), interruptible(), interruptible():
            work()
        assert signal.getsignal(signal.SIGINT) is before


def test_without_ctrl_c_nothing_changes() -> None:
    with interruptible():
        pass
    with pytest.raises(ValueError, match="no"), interruptible():
        raise ValueError("no")
    with pytest.raises(SystemExit), interruptible():
        with suppress(KeyboardInterrupt):
            press()
        sys.exit(0)  # the work was completed


def test_other_threads_and_ignored_signals_are_left_alone() -> None:
    done: list[bool] = []

    def work() -> None:
        with interruptible():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            press()
            done.append(True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == [True, True]


PRESSED = """
import signal, sys
from captioner import cli
def run(*_, **__):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise CaptionerError("step.onnx: torch cannot export this part") from None
from captioner.errors import CaptionerError
import captioner.store
captioner.store.locate = run
cli.main(["export", "show_tell", "-o", sys.argv[1]])
"""


@pytest.mark.skipif(os.name != "posix", reason="the exit code of an interrupted program is POSIX's")
def test_an_interrupted_command_exits_with_130_and_one_line(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-c", PRESSED, str(tmp_path / "out")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
    assert not list(tmp_path.iterdir())
