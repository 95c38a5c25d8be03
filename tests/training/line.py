"""A model of one number, whose training can be computed by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from captioner.data.batches import Captions
from captioner.text.vocabulary import BOS, EOS
from captioner.training.loop import Loop
from captioner.training.optimisation import BatchLoss
from captioner.training.recipe import RunConfig
from tests.training.conftest import listening


class Noise(nn.Dropout):
    """A substitute for an objective; the loop sets ``done``."""

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

    def trained_modules(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        return {"line": (self.model, self.average)}

    def begin_epoch(self, epoch: int) -> None:
        self.begun.append(epoch)

    def batches(self, epoch: int, skip: int) -> Iterator[Numbers]:
        generator = torch.Generator().manual_seed(epoch)
        yield from map(Numbers, torch.randn(self.steps, 5, 1, generator=generator)[skip:])

    def batch_loss(self, batch: Numbers, captions: Captions) -> BatchLoss:
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
    """Return the settings of a run of three epochs on the CPU."""
    return RunConfig.model_validate(
        {"output": tmp_path / "run", "epochs": 3, "device": "cpu", "precision": "32-true", "average": 0.5, **settings}
    )


def log_of(run: Line) -> list[dict[str, Any]]:
    """Return the records of a run's log."""
    return [json.loads(line) for line in (run.output / "log.jsonl").read_text().splitlines()]
