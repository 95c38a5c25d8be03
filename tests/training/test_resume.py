"""Resumed runs: which settings may differ, which data belong to them, and whose folder it is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from captioner.errors import CheckpointError
from captioner.training import state
from captioner.training.resume import fixed_settings, locked
from captioner.training.state import STATE
from tests.training.line import Line, config, log_of


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume; leave out --resume"):
        Line(config(tmp_path), resume=True)
    Line(config(tmp_path)).run()
    with pytest.raises(CheckpointError, match="holds a run already"):
        Line(config(tmp_path))
    with pytest.raises(CheckpointError, match="other settings"):
        Line(config(tmp_path, seed=1), resume=True)


def test_settings_that_differ_from_the_resumed_run_are_named_with_both_values(tmp_path: Path) -> None:
    Line(config(tmp_path, optimiser={"clip": 1.0})).run()
    changed = config(tmp_path, seed=1, epochs=2, optimiser={"schedule": "linear"}, evaluation={"patience": 9})
    with pytest.raises(CheckpointError) as raised:
        Line(changed, resume=True)
    message = str(raised.value)
    for part in (
        "seed was 0 and is now 1",
        "epochs was 3 and is now 2",
        "optimiser.clip was 1.0 and is now 5.0",
        'optimiser.schedule was "cosine" and is now "linear"',
        "Epochs may be added, but not taken away",
    ):
        assert part in message
    assert "patience" not in message and str(tmp_path / "run" / STATE) in message


def test_output_and_device_of_a_run_may_change(tmp_path: Path) -> None:
    broken = Line(config(tmp_path, save_minutes=1e-9), fails_at=5)
    with pytest.raises(OSError, match="power"):
        broken.run()
    (tmp_path / "run").rename(tmp_path / "moved")
    resumed = Line(config(tmp_path, output=tmp_path / "moved", save_minutes=3, device="auto"), resume=True)
    resumed.run()
    assert resumed.progress.finished and resumed.progress.step == 12


def test_a_setting_that_an_older_version_did_not_have_is_its_default(tmp_path: Path) -> None:
    run = Line(config(tmp_path))
    run.run()
    known = json.loads(fixed_settings(run.settings))
    del known["accumulate"]
    state.save_state(run.output / STATE, run.progress, run._modules(), run.optimiser, json.dumps(known))
    assert Line(config(tmp_path), resume=True).run() == run.output / "best"
    with pytest.raises(CheckpointError, match="accumulate was 1 and is now 2"):
        Line(config(tmp_path, accumulate=2), resume=True)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("stopped", [None, 6])
def test_epochs_can_be_added_to_a_run(tmp_path: Path, stopped: int | None, schedule: str) -> None:
    """With a constant learning rate the longer run is that which had all epochs from its start."""
    optimiser = {"schedule": schedule, "warmup": 0.0}
    first = Line(config(tmp_path, epochs=2, save_minutes=1e-9, optimiser=optimiser), fails_at=stopped)
    if stopped is None:
        first.run()
    else:
        with pytest.raises(OSError, match="power"):
            first.run()
    longer = Line(config(tmp_path, epochs=5, optimiser=optimiser), resume=True)
    longer.run()
    assert longer.progress.finished and longer.progress.epoch == 5 and longer.progress.step == 20
    assert (longer.output / "last").read_text().split()[0] == "5"
    assert [record["step"] for record in log_of(longer) if "loss" in record] == list(range(1, 21))
    assert json.loads((longer.output / "config.json").read_text())["epochs"] == 5
    said = "\n".join(longer.heard)
    assert f"epochs: 5 instead of 2; the learning rate follows its schedule ({schedule}) over 5 epochs" in said
    rates = [record["learning_rate"] for record in log_of(longer) if "loss" in record]
    if schedule == "cosine":
        step = stopped or 8
        assert rates[step] == pytest.approx(0.001 * (1 + math.cos(math.pi * (step - 1) / 19)) / 2, abs=1e-6)
        return
    (tmp_path / "whole").mkdir()
    whole = Line(config(tmp_path / "whole", epochs=5, optimiser=optimiser))
    whole.run()
    assert first.weights + longer.weights == whole.weights
    again = Line(config(tmp_path, epochs=5, optimiser=optimiser), resume=True)
    again.run()
    assert not again.weights, "a finished run trained on"
    with pytest.raises(CheckpointError, match="epochs was 5 and is now 2"):
        Line(config(tmp_path, epochs=2, optimiser=optimiser), resume=True)


def test_more_epochs_or_patience_resume_a_run_that_had_stopped_improving(tmp_path: Path) -> None:
    scores = [0.9, 0.1, 0.1]
    Line(config(tmp_path, epochs=9, evaluation={"patience": 2}), scores=scores).run()
    longer = Line(config(tmp_path, epochs=10, evaluation={"patience": 2}), resume=True, scores=[0.2, 0.3, 0.4])
    longer.run()
    assert longer.progress.epoch == 5, "patience is counted from zero again"
    patient = Line(config(tmp_path, epochs=10, evaluation={"patience": 4}), resume=True, scores=[0.2, 0.3, 0.4])
    patient.run()
    assert patient.progress.epoch == 7 and patient.progress.best_epoch == 1
    assert (patient.output / "best").read_text().split()[0] == "1"


def test_a_run_whose_data_changed_is_not_resumed(tmp_path: Path) -> None:
    broken = Line(config(tmp_path, save_minutes=1e-9), fails_at=6)
    with pytest.raises(OSError, match="power"):
        broken.run()
    resumed = Line(broken.settings, resume=True)
    resumed.steps = 5
    with pytest.raises(CheckpointError, match="other data: it has made 6 steps, which are not 1 epochs of 5"):
        resumed.run()


def test_as_many_batches_of_other_data_are_not_resumed(tmp_path: Path) -> None:
    run = Line(config(tmp_path, epochs=1))
    run.data = state.data_hash(["a", "dog"], [("1.jpg", ("a dog",))])
    run.run()
    for parts in ((["a", "cat"], [("1.jpg", ("a dog",))]), (["a", "dog"], [("1.jpg", ("a cat",))])):
        changed = Line(config(tmp_path, epochs=2), resume=True)
        changed.data = state.data_hash(*parts)
        with pytest.raises(CheckpointError, match="other data: its vocabulary, images or captions have"):
            changed.run()
    same = Line(config(tmp_path, epochs=2), resume=True)
    same.data = run.data
    same.run()
    assert same.progress.epoch == 2


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "runs" / "one", resume=False):
        with (
            pytest.raises(CheckpointError, match="one: another process trains there; wait until it has ended"),
            locked(tmp_path / "runs" / "one", resume=False),
        ):
            pass
        with locked(tmp_path / "runs" / "two", resume=False):
            (tmp_path / "runs" / "two" / "log").touch()
    with locked(tmp_path / "runs" / "one", resume=False):
        pass
    assert [file.name for file in (tmp_path / "runs").rglob("*")] == ["two", "log"]
