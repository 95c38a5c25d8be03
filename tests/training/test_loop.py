"""The training loop, on a model of one number, whose training can be computed by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from captioner.errors import CheckpointError, FileError
from captioner.training.schedule import learning_rate_factor
from captioner.training.state import STATE
from tests.disks import largest_file
from tests.training.line import Line, config, log_of

resource = pytest.importorskip("resource", reason="limits of this kind are POSIX's")


def test_steps_are_adamws_and_the_average_follows(tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=1)
    run = Line(settings)
    model = copy.deepcopy(run.model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.01)
    generator = torch.get_rng_state()
    expected, mean, means = [], model.weight.item(), []
    for step, batch in enumerate(one.values for one in run.batches(0, 0)):
        expected.append(model.weight.item())
        means.append(mean)
        (model(nn.functional.dropout(batch)) - 3 * batch).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.param_groups[0]["lr"] = 0.001 * learning_rate_factor(step, 4, settings.optimiser)
        optimiser.step()
        optimiser.zero_grad()
        decay = min(0.5, (2 + step) / (11 + step))
        mean = decay * mean + (1 - decay) * model.weight.item()
    torch.set_rng_state(generator)  # for the same dropout
    run.run()
    assert run.weights == pytest.approx(expected, abs=1e-6) and run.means == pytest.approx(means, abs=1e-6)
    assert len({*run.weights}) == 4


def test_the_best_is_kept_and_training_stops_early(tmp_path: Path) -> None:
    run = Line(config(tmp_path, epochs=9, evaluation={"patience": 2}), scores=[0.3, 0.6, 0.5, 0.6, 0.9])
    assert run.run() == run.output / "best"
    assert [(run.output / name).read_text().split()[0] for name in ("best", "last")] == ["2", "4"]
    records = log_of(run)
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 17))
    assert [record["dev"]["nearness"] for record in records if "dev" in record] == [0.3, 0.6, 0.5, 0.6]
    assert sum("(best)" in line for line in run.heard) == 2
    again = Line(run.settings, resume=True)
    assert again.run() == run.output / "best" and not again.weights, "a finished run went on"


def test_evaluation_may_be_less_frequent_but_always_comes_at_the_end(tmp_path: Path) -> None:
    run = Line(config(tmp_path, epochs=5, evaluation={"every": 2}))
    run.run()
    assert [record["epoch"] for record in log_of(run) if "dev" in record] == [2, 4, 5] and run.begun == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fails_at", [1, 4, 6])
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, fails_at: int) -> None:
    (tmp_path / "whole").mkdir()
    whole = Line(config(tmp_path / "whole", save_minutes=1e-9))
    whole.run()
    broken = Line(config(tmp_path, save_minutes=1e-9), fails_at=fails_at)
    with pytest.raises(OSError, match="power"):
        broken.run()
    resumed = Line(broken.settings, resume=True)
    resumed.run()
    assert broken.weights + resumed.weights == whole.weights and resumed.begun[0] == fails_at // 4
    states = [load_file(run.output / STATE) for run in (whole, resumed)]
    assert states[0].keys() == states[1].keys() and all(
        torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()
    )
    assert [record.get("loss") for record in log_of(resumed)] == [record.get("loss") for record in log_of(whole)]
    assert (whole.output / "last").read_text() == (resumed.output / "last").read_text()


def test_a_best_model_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    run = Line(config(tmp_path, epochs=1), scores=[0.9])
    (run.run()).unlink()
    with pytest.raises(CheckpointError, match=r"best: is missing, .*last holds the model of its last epoch"):
        Line(run.settings, resume=True).run()
    longer = Line(config(tmp_path, epochs=2), resume=True, scores=[0.1])
    assert longer.run().read_text().split()[0] == "2"


class Filling(Line):
    """Fills the disk while it is evaluated after an epoch: no file may have more than some bytes from then on."""

    full: ClassVar[dict[int, int]] = {}

    def evaluate(self) -> dict[str, float]:
        if (most := self.full.get(self.progress.epoch)) is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return super().evaluate()


@pytest.mark.parametrize(("most", "named"), [(0, r"log\.jsonl"), (1500, r"state\.safetensors")])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_full_disk_names_the_file_and_loses_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, most: int, named: str
) -> None:
    (tmp_path / "whole").mkdir()
    whole = Line(config(tmp_path / "whole"))
    whole.run()
    monkeypatch.setattr(Filling, "full", {epoch: most})
    first = Filling(config(tmp_path))
    with largest_file(1 << 30), pytest.raises(FileError, match=rf"{named}: cannot be written, it is larger than files"):
        first.run()
    said = "\n".join(first.heard)
    if epoch == 1:
        assert f"stopped; nothing was saved yet: {first.output}" in said
        again = Line(config(tmp_path))
        again.run()
        assert again.weights == whole.weights
        return
    assert f"stopped; --resume continues the run from its last saved state: {first.output}" in said
    assert not list(first.output.rglob(".*"))
    resumed = Line(config(tmp_path), resume=True)
    resumed.run()
    assert first.weights[:4] + resumed.weights == whole.weights
    assert [record.get("loss") for record in log_of(resumed)] == [record.get("loss") for record in log_of(whole)]
