"""Optimiser steps: accumulated, empty and scaled gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import nn

from captioner.data.batches import Captions
from captioner.errors import ConfigError
from captioner.training import loop
from captioner.training.schedule import learning_rate_factor
from tests.training.line import Line, Numbers, config, log_of


def test_divergence_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "learning_rate_factor", lambda *_, **__: float("inf"))
    with pytest.raises(ConfigError, match=r"diverged at step [12] .*lower optimiser\.learning_rate"):
        Line(config(tmp_path)).run()


def test_gradients_of_several_batches_are_one_step(tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=1, accumulate=3)
    run = Line(settings)
    model = copy.deepcopy(run.model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.01)
    generator = torch.get_rng_state()
    expected = []
    for step, batch in enumerate(one.values for one in run.batches(0, 0)):
        expected.append(model.weight.item())
        together = 3 if step < 3 else 1  # a step after three batches, and one after the last batch alone
        ((model(nn.functional.dropout(batch)) - 3 * batch).square().mean() / together).backward()
        if step in (2, 3):
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.param_groups[0]["lr"] = 0.001 * learning_rate_factor(step, 4, settings.optimiser)
            optimiser.step()
            optimiser.zero_grad()
    torch.set_rng_state(generator)
    run.run()
    assert run.weights == pytest.approx(expected, abs=1e-6)
    assert run.weights[0] == run.weights[2] != run.weights[3] != run.model.weight.item()
    assert run.model.weight.item() == pytest.approx(model.weight.item(), abs=1e-6)


class Gaps(Line):
    """Has empty batches, at the given numbers."""

    empty: ClassVar[set[int]] = set()

    def batches(self, epoch: int, skip: int) -> Iterator[Numbers]:
        for number, batch in enumerate(super().batches(epoch, skip), start=skip):
            yield Numbers(batch.values, Captions.collate([])) if number in self.empty else batch


@pytest.mark.parametrize("empty", [{0}, {1}, {3}, {2, 3}, {0, 1, 2, 3}])
def test_batches_without_captions_count_as_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: set[int]
) -> None:
    monkeypatch.setattr(Gaps, "empty", empty)
    run = Gaps(config(tmp_path, epochs=3, accumulate=2))
    run.run()
    assert run.progress.step == 12 and run.progress.finished
    records = [record for record in log_of(run) if "loss" in record]
    assert [record["step"] for record in records] == [step for step in range(1, 13) if (step - 1) % 4 not in empty]
    # A group of two that is not empty is a step of the optimiser.
    steps = 3 * sum(not {number, number + 1} <= empty for number in (0, 2))
    assert len({*run.weights, run.model.weight.item()}) == (steps + 1 if run.weights else 1)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Use 16-mixed on the CPU as on a GPU: float16, with gradients scaled by the number in the list."""
    scale = [2.0**10]

    def fabric(**settings: Any) -> Fabric:
        plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale[0]))
        del settings["precision"]
        return Fabric(**{**settings, "plugins": [settings["plugins"], plugin]})

    monkeypatch.setattr("lightning_fabric.Fabric", fabric)
    return scale


def test_scaled_gradients_are_clipped_and_used_unscaled(tmp_path: Path, half: list[float]) -> None:
    for name in ("half", "whole"):
        (tmp_path / name).mkdir()
    scaled = Line(config(tmp_path / "half", precision="16-mixed", optimiser={"clip": 0.5}))
    scaled.run()
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as undone:
        undone.setattr("lightning_fabric.Fabric", Fabric)
        plain = Line(config(tmp_path / "whole", optimiser={"clip": 0.5}))
        plain.run()
    norms = [[record["gradient_norm"] for record in log_of(run) if "loss" in record] for run in (scaled, plain)]
    assert norms[0] == pytest.approx(norms[1], rel=0.02) and len(norms[0]) == 12
    assert scaled.weights == pytest.approx(plain.weights, abs=1e-3)


def test_a_gradient_too_large_for_its_scale_is_skipped_and_the_scale_lowered(tmp_path: Path, half: list[float]) -> None:
    half[0] = 2.0**16
    run = Line(config(tmp_path, precision="16-mixed", epochs=2))
    before = run.model.weight.item()
    run.run()
    assert run.weights[1] == before and run.model.weight.item() != before
    assert run.progress.scaler["scale"] < 2.0**16
    resumed = Line(config(tmp_path, precision="16-mixed", epochs=2), resume=True)
    resumed.load()
    assert resumed.fabric.strategy.precision.state_dict() == run.fabric.strategy.precision.state_dict()


def test_a_state_saved_between_steps_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = Line(config(tmp_path / "whole", save_minutes=1e-9, accumulate=2))
    whole.run()
    broken = Line(config(tmp_path, save_minutes=1e-9, accumulate=2), fails_at=3)
    with pytest.raises(OSError, match="power"):
        broken.run()
    resumed = Line(broken.settings, resume=True)
    resumed.run()
    assert broken.weights[:2] + resumed.weights == whole.weights


def test_half_precision_is_for_gpus(tmp_path: Path) -> None:
    run = Line(config(tmp_path, precision="16-mixed"))
    assert run.precision in ("32-true", "bf16-mixed") and "for GPUs" in "".join(run.heard)
