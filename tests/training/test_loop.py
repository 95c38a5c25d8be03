"""The training loop, on a model of one number, whose training can be computed by hand."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.data.batches import Captions
from captioner.errors import CheckpointError, ConfigError, FileError
from captioner.text.vocabulary import BOS, EOS
from captioner.training import loop, state
from captioner.training.loop import BatchLoss, Loop
from captioner.training.recipe import RunConfig
from captioner.training.resume import alone, fixed_settings
from captioner.training.schedule import learning_rate_factor
from captioner.training.state import STATE
from tests.disks import largest_file
from tests.training.conftest import listening

resource = pytest.importorskip("resource", reason="limits of this kind are POSIX's")


class Noise(nn.Dropout):
    """Stands in for an objective; the loop sets how much of the run is done."""

    done = 0.0


CAPTIONS = Captions.collate([[[BOS, 4, EOS]]])


@dataclass(frozen=True)
class Numbers:
    """A batch; its captions are not used."""

    values: Tensor
    captions: Captions = CAPTIONS


class Line(Loop[Numbers]):
    """Learns the mean of some numbers."""

    metric: ClassVar[str] = "nearness"
    units: ClassVar[str] = "numbers"

    def __init__(
        self, config: RunConfig, *, resume: bool = False, scores: list[float] | None = None, fails_at: int | None = None
    ) -> None:
        events, self.heard = listening()
        super().__init__(config, resume=resume, events=events)
        self.model = nn.Linear(1, 1)
        self.average = copy.deepcopy(self.model)
        self.optimiser = self.adamw([(self.model, config.optimiser.learning_rate)])
        self.objective, self.steps = Noise(), 4  # type: ignore[assignment]
        self.scores, self.fails_at = list(scores or []), fails_at
        self.begun: list[int] = []
        self.weights: list[float] = []
        self.means: list[float] = []

    def parts(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        return {"line": (self.model, self.average)}

    def begin_epoch(self, epoch: int) -> None:
        self.begun.append(epoch)

    def batches(self, epoch: int, skip: int) -> Iterator[Numbers]:
        generator = torch.Generator().manual_seed(epoch)
        yield from map(Numbers, torch.randn(self.steps, 5, 1, generator=generator)[skip:])

    def cost(self, batch: Numbers, captions: Captions) -> BatchLoss:
        if self.progress.step == self.fails_at:
            raise OSError("the power went out")
        assert self.objective.done == self.progress.step / (4 * self.settings.epochs)
        self.weights.append(self.model.weight.item())
        self.means.append(self.average.weight.item())
        loss = (self.model(self.objective(batch.values)) - 3 * batch.values).square().mean()
        return BatchLoss(loss, {"nll": loss.detach()}, len(batch.values))

    def evaluate(self) -> dict[str, float]:
        return {"nearness": self.scores.pop(0) if self.scores else 0.5, "other": 0.1}

    def save(self, name: str) -> None:
        self.output.mkdir(exist_ok=True)
        (self.output / name).write_text(f"{self.progress.epoch} {self.average.weight.item()!r}")

    def describe(self) -> str:
        return "a line"


def config(tmp_path: Path, **settings: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"output": tmp_path / "run", "epochs": 3, "device": "cpu", "precision": "32-true", "average": 0.5, **settings}
    )


def log_of(run: Line) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.output / "log.jsonl").read_text().splitlines()]


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


def test_the_best_is_kept_and_waiting_ends(tmp_path: Path) -> None:
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


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume; leave out --resume"):
        Line(config(tmp_path), resume=True)
    Line(config(tmp_path)).run()
    with pytest.raises(CheckpointError, match="holds a run already"):
        Line(config(tmp_path))
    with pytest.raises(CheckpointError, match="other settings"):
        Line(config(tmp_path, seed=1), resume=True)


def test_what_differs_from_the_run_that_is_resumed_is_named_with_both_values(tmp_path: Path) -> None:
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


def test_where_and_on_what_a_run_trains_may_change(tmp_path: Path) -> None:
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
    assert longer.progress.epoch == 5, "waiting begins anew"
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


def test_a_best_model_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    run = Line(config(tmp_path, epochs=1), scores=[0.9])
    (run.run()).unlink()
    with pytest.raises(CheckpointError, match=r"best: is missing, .*last holds the model of its last epoch"):
        Line(run.settings, resume=True).run()
    longer = Line(config(tmp_path, epochs=2), resume=True, scores=[0.1])
    assert longer.run().read_text().split()[0] == "2"


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path / "runs" / "one", resume=False):
        with (
            pytest.raises(CheckpointError, match="one: another process trains there; wait until it has ended"),
            alone(tmp_path / "runs" / "one", resume=False),
        ):
            pass
        with alone(tmp_path / "runs" / "two", resume=False):
            (tmp_path / "runs" / "two" / "log").touch()
    with alone(tmp_path / "runs" / "one", resume=False):
        pass
    assert [file.name for file in (tmp_path / "runs").rglob("*")] == ["two", "log"]


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
    """Has batches with nothing to learn from: those whose numbers are given."""

    empty: ClassVar[set[int]] = set()

    def batches(self, epoch: int, skip: int) -> Iterator[Numbers]:
        for number, batch in enumerate(super().batches(epoch, skip), start=skip):
            yield Numbers(batch.values, Captions.collate([])) if number in self.empty else batch


@pytest.mark.parametrize("empty", [{0}, {1}, {3}, {2, 3}, {0, 1, 2, 3}])
def test_batches_with_nothing_to_learn_from_still_count_as_steps(
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


def test_what_was_saved_between_steps_is_resumed(tmp_path: Path) -> None:
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
