"""Progress with and without a terminal, and messages above it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from captioner.cli import bars, console
from tests.cli.test_console import Terminal, screen


@pytest.fixture
def own_console() -> Iterator[None]:
    """A console that does not outlast the test, as it keeps the colours of its terminal."""
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


@pytest.mark.usefixtures("own_console")
def test_errors_and_notes_appear_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    failures = console.Failures()
    with bars.progress("Captioning") as progress:
        progress(1, 3)
        failures("broken.jpg: is damaged [bulk]")
        console.note("a note")
        progress(2, 3, "loss 2.5")
        during = screen(terminal.getvalue())
        failures("empty.jpg: is empty")
        progress(3, 3)
    assert during[:2] == ["error: broken.jpg: is damaged [bulk]", "a note"]
    assert screen(terminal.getvalue()) == [*during[:2], "error: empty.jpg: is empty"]
    assert all("Captioning" in line for line in during[2:])


def test_without_a_terminal_much_work_is_announced_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    phases = bars.Phases()
    for title, done, total in (("training", 0, 1200), ("training", 1, 1200), ("scoring", 0, 3), ("scoring", 3, 3)):
        phases(title, done, total, "loss 2.5")
    phases.close()
    assert capsys.readouterr().err == "training: 0 of 1,200\n"
    with bars.progress("Captioning", show=False) as progress:
        progress(1, 1200)
    assert capsys.readouterr().err == ""


def test_without_a_terminal_progress_is_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 0.5, 61.0, 90.0, 130.0, 200.0, 261.0])
    monkeypatch.setattr("captioner.cli.bars.time.monotonic", lambda: next(clock))
    with bars.progress("Captioning") as progress:
        for done, total in ((610, 1000), (731, 1000), (800, 1000), (869, 1000)):  # a resumed run
            progress(done, total)
        progress(5_000, None)
        progress(7_000, None)
    assert capsys.readouterr().err.splitlines() == [
        "Captioning: 610 of 1,000",
        "Captioning: 731 of 1,000, 2 a second, 0:02:14 left",
        "Captioning: 869 of 1,000, 2 a second, 0:01:06 left",
        "Captioning: 5,000, 22 a second",
        "Captioning: 7,000, 25 a second",
    ]
