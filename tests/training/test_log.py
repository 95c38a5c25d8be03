from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from captioner.errors import CaptionerError, ConfigError, FileError
from captioner.settings import validate
from captioner.training.log import LOG, Log
from captioner.training.logger import LOGGERS, Logger
from captioner.training.recipe import RunConfig


def start(output: Path, resumed_at: int | None = None, warnings: list[str] | None = None, **settings: object) -> Log:
    config = validate(RunConfig, {"output": output, **settings}, where="test")
    return Log(config, resumed_at, ([] if warnings is None else warnings).append)


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """Read a curve as TensorBoard does."""
    events = EventAccumulator(str(folder / "curves"))
    events.Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]


def test_tensorboard_discards_values_after_the_saved_state(tmp_path: Path) -> None:
    log = start(tmp_path)
    for step in range(1, 41):
        log.step(step, {"loss": 1 / step})
    log.evaluation(1, 40, {"CIDEr": 0.5})
    log.close()
    assert curve(tmp_path, "train/loss") == [(step, 1 / step) for step in (10, 20, 30, 40)]
    assert curve(tmp_path, "dev/CIDEr") == [(40, 0.5)]
    log = start(tmp_path, 20)
    for step in range(21, 41):
        log.step(step, {"loss": 2.0})
    log.close()
    assert curve(tmp_path, "train/loss") == [(10, 0.1), (20, 0.05), (30, 2.0), (40, 2.0)]
    records = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 41))


def test_damaged_lines_of_a_log_are_dropped_on_resuming(tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(b'{"step": 1}\n\xff\xfe\n' + b"[" * 100_000 + b'\n{"step": "x"}\n{"step": 2}\n{"st')
    start(tmp_path, 5).close()
    assert (tmp_path / LOG).read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[Logger]:
    """A logger whose call number ``at`` raises ``error``."""

    class Failing(Logger):
        at, error = 0, Exception()
        calls: ClassVar[list[object]] = []

        def __init__(self, config: RunConfig, resumed_at: int | None) -> None:
            self.call(resumed_at)

        def add(self, values: dict[str, float], step: int) -> None:
            self.call((step, values))

        def close(self) -> None:
            self.call("close")

        def call(self, call: object) -> None:
            self.calls.append(call)
            if len(self.calls) == self.at:
                raise self.error

    monkeypatch.setitem(LOGGERS._entries, "failing", Failing)
    return Failing


def test_a_logger_that_fails_while_the_run_trains_is_left_out(tmp_path: Path, failing: type[Logger]) -> None:
    failing.at, failing.error = 3, TimeoutError("no answer\nin 5 s")
    warnings: list[str] = []
    log = start(tmp_path, warnings=warnings, logger="failing")
    for step in range(1, 41):
        log.step(step, {"loss": 1.0})
    log.close()
    assert failing.calls == [None, *((step, {"train/loss": 1.0}) for step in (10, 20)), "close"]
    (warning,) = warnings
    assert warning.startswith("logger 'failing': TimeoutError: no answer; the run continues without it")
    assert len((tmp_path / LOG).read_text().splitlines()) == 40


def test_a_logger_that_cannot_be_started_or_fills_the_disk_ends_the_run(tmp_path: Path, failing: type[Logger]) -> None:
    failing.at, failing.error = 1, PermissionError("log in first")
    with pytest.raises(ConfigError, match=r"^logger 'failing': PermissionError: log in first$"):
        start(tmp_path, logger="failing")
    failing.at, failing.error = 3, FileError("the disk is full")
    with pytest.raises(FileError):
        start(tmp_path, logger="failing").evaluation(1, 1, {"CIDEr": 0.5})


def test_an_unknown_logger_and_one_without_its_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CaptionerError, match=r"logger 'tensorbord' does not exist. Did you mean 'tensorboard'"):
        validate(RunConfig, {"logger": "tensorbord"}, where="test")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert RunConfig().logger == []
    with pytest.raises(CaptionerError, match=r"'tensorboard' needs .* pip install 'captioner\[train\]'"):
        validate(RunConfig, {"logger": "tensorboard"}, where="test")
