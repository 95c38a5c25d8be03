from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from captioner.training.log import LOG, Log


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """Read a curve as TensorBoard does."""
    events = EventAccumulator(str(folder / "curves"))
    events.Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]


def test_tensorboard_reads_the_curves_and_forgets_what_came_after_the_saved_state(tmp_path: Path) -> None:
    log = Log(tmp_path, None)
    for step in range(1, 41):
        log.step(step, {"loss": 1 / step})
    log.evaluation(1, 40, {"CIDEr": 0.5})
    log.close()
    assert curve(tmp_path, "train/loss") == [(step, 1 / step) for step in (10, 20, 30, 40)]
    assert curve(tmp_path, "dev/CIDEr") == [(40, 0.5)]
    log = Log(tmp_path, 20)
    for step in range(21, 41):
        log.step(step, {"loss": 2.0})
    log.close()
    assert curve(tmp_path, "train/loss") == [(10, 0.1), (20, 0.05), (30, 2.0), (40, 2.0)]
    records = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 41))


def test_damaged_lines_of_a_log_are_dropped_on_resuming(tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(b'{"step": 1}\n\xff\xfe\n' + b"[" * 100_000 + b'\n{"step": "x"}\n{"step": 2}\n{"st')
    Log(tmp_path, 5).close()
    assert (tmp_path / LOG).read_text() == '{"step": 1}\n{"step": 2}\n'
