"""What every training run does: steps, learning rate, moving average, evaluation, early stop, log and saved state.

The run's folder gets ``best`` and ``last`` (model folders), ``log.jsonl``, TensorBoard curves in ``curves``,
``config.json`` and the state to resume from. A run that is killed at any moment and resumed ends with the same weights
to the bit as an unbroken one on the same machine's CPU.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor, nn

from captioner import files
from captioner.backend import choose_device, fast_dtype
from captioner.data.batches import prefetch
from captioner.errors import CheckpointError, ConfigError
from captioner.training.log import Log
from captioner.training.objective import Objective
from captioner.training.recipe import OptimiserConfig, RunConfig
from captioner.training.state import Progress, load_state, save_state

B = TypeVar("B")
STATE, CONFIG = "state.safetensors", "config.json"


class Cost(NamedTuple):
    """What a batch costs.

    Attributes:
        loss: scalar, to be minimised.
        metrics: scalars to write down; the first is shown.
        units: how many of the loop's units the batch has.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    units: int


def learning_rate_factor(step: int, total: int, config: OptimiserConfig) -> float:
    """Return the share of the highest learning rate at ``step`` of ``total``: a linear rise, then the schedule's fall."""
    warmup = max(1, round(config.warmup * total))
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}[config.schedule]


class Loop(ABC, Generic[B]):
    """One training run. A subclass makes the model and the batches, says what a batch costs and how good the model is; :meth:`run` does the rest.

    The subclass's constructor sets :attr:`model`, :attr:`optimiser` (by :meth:`adamw`), :attr:`objective` and
    :attr:`steps`.

    Attributes:
        metric: the dev score by which the best epoch is chosen.
        units: what speed is counted in.
        model: what is trained; it decides what training mode means for its parts.
        optimiser: whose groups have their highest learning rate as ``rate``.
        objective: says what a batch costs; its state is saved with the run's.
        steps: batches in an epoch.
    """

    metric: ClassVar[str]
    units: ClassVar[str]
    model: nn.Module
    optimiser: torch.optim.Optimizer
    objective: Objective
    steps: int

    def __init__(self, config: RunConfig, *, resume: bool, console: Console) -> None:
        self.settings, self.resume, self.console, self.output = config, resume, console, config.output
        if (self.output / STATE).exists() and not resume:
            raise CheckpointError(
                f"{self.output}: holds a run already; go on with it with --resume, or give another --output"
            )
        if resume and not (self.output / STATE).exists():
            raise CheckpointError(f"{self.output}: holds no run to resume; leave out --resume to begin one")
        self.device = choose_device(config.device)
        precision = config.precision
        if precision == "16-mixed" and self.device.type == "cpu":
            console.print("precision: 16-mixed is for GPUs; this run takes auto", style="yellow")
            precision = "auto"
        if precision == "auto":
            precision = "bf16-mixed" if fast_dtype(self.device) == torch.bfloat16 else "32-true"
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of every choice
        self.fabric = Fabric(accelerator=self.device.type, devices=1, precision=precision)
        self.precision = precision
        self.progress = Progress()
        self._stepper: Any = None  # the optimiser as Fabric steps it
        self._gathered = 0  # batches whose gradients wait for a step of the optimiser
        torch.manual_seed(config.seed)

    @abstractmethod
    def parts(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Return by name each module that is trained now and its moving average."""

    @abstractmethod
    def batches(self, epoch: int, skip: int) -> Iterator[B]:
        """Make the batches of an epoch, counted from 0, without the first ``skip``; called in a thread, so with a random generator of its own."""

    @abstractmethod
    def cost(self, batch: B) -> Cost | None:
        """Return what a batch costs, under autocast; ``None`` if there is nothing in it to learn from. It counts as a step all the same."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Score the averaged model on dev; fractions by name, :attr:`metric` among them."""

    @abstractmethod
    def save(self, name: str) -> None:
        """Write the averaged model to the folder ``name`` of the output."""

    @abstractmethod
    def describe(self) -> str:
        """Say in one line what is trained on what."""

    def begin_epoch(self, epoch: int) -> None:
        """Change what must change at the start of an epoch, counted from 0; also called for the one that a resumed run is in."""

    def adamw(self, groups: list[tuple[nn.Module, float]]) -> torch.optim.Optimizer:
        """Make the optimiser for modules, each with its highest learning rate."""
        config = self.settings.optimiser
        scales = bool(
            self.fabric.strategy.precision.state_dict()
        )  # 16-mixed, whose gradients must be clipped after they are scaled back
        return torch.optim.AdamW(
            [{"params": list(module.parameters()), "rate": rate} for module, rate in groups],
            lr=0.0,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda") and not scales,
        )

    def load(self) -> None:
        """Go back to the saved state."""
        self.progress = load_state(self.output / STATE, self._modules(), self.optimiser, self._fixed_settings())
        self.fabric.strategy.precision.load_state_dict(self.progress.scaler)

    def run(self) -> Path:
        """Train, or go on training, and return the folder of the best model.

        Raises:
            CaptionerError: the state cannot be resumed, or training diverged.
        """
        best, progress, settings = self.output / "best", self.progress, self.settings
        self.output.mkdir(parents=True, exist_ok=True)
        if self.resume:
            self.load()
            progress = self.progress
            if progress.finished:
                self.console.print(f"this run is finished: {best}")
                return best
        else:
            files.write_text(self.output / CONFIG, settings.model_dump_json(indent=2) + "\n")
        log = Log(self.output, progress.step if self.resume else None)
        self.console.print(f"{self.describe()}; {self.device}, {self.precision}")
        began, before, saved = time.monotonic(), progress.seconds, time.monotonic()
        try:
            with bar(self.console) as shown:
                task = shown.add_task("training", total=self.steps * settings.epochs, completed=progress.step, info="")
                for epoch in range(progress.epoch, settings.epochs):
                    self.begin_epoch(epoch)
                    for batch in prefetch(self.batches(epoch, progress.batch)):
                        shown.update(task, info=self._step(batch, log), completed=progress.step)
                        progress.seconds = before + time.monotonic() - began
                        if self._group_complete() and time.monotonic() - saved > 60 * settings.save_minutes:
                            self._save_state()
                            saved = time.monotonic()
                    progress.epoch, progress.batch = epoch + 1, 0
                    last = progress.epoch == settings.epochs
                    if last or progress.epoch % settings.evaluation.every == 0:
                        self._evaluate(log)
                    progress.seconds = before + time.monotonic() - began
                    progress.finished = last or progress.waited >= settings.evaluation.patience
                    if progress.finished:
                        self.save("last")
                    self._save_state()
                    saved = time.monotonic()
                    if progress.finished:
                        break
        except KeyboardInterrupt:
            self.console.print(
                f"stopped; the run goes on from its last saved state with --resume --output {self.output}"
            )
            raise
        finally:
            log.close()
        self.console.print(
            f"best {self.metric} on dev {100 * progress.best:.1f} after epoch {progress.best_epoch}, {progress.seconds / 60:.1f} minutes in all: {best}"
        )
        return best

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"objective": self.objective}
        for name, (now, mean) in self.parts().items():
            modules |= {name: now, f"average.{name}": mean}
        return modules

    def _fixed_settings(self) -> str:
        """Return the settings that must not change when a run is resumed."""
        return self.settings.model_dump_json(exclude={"output", "device", "save_minutes"})

    def _save_state(self) -> None:
        self.progress.scaler = self.fabric.strategy.precision.state_dict()
        save_state(self.output / STATE, self.progress, self._modules(), self.optimiser, self._fixed_settings())

    def _step(self, batch: B, log: Log) -> str:
        """Learn from one batch and return what to show beside the progress bar."""
        began, progress, settings = time.perf_counter(), self.progress, self.settings
        factor = learning_rate_factor(progress.step, self.steps * settings.epochs, settings.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * factor
        self.model.train()
        self.objective.done = progress.step / (self.steps * settings.epochs)
        with self.fabric.autocast():
            cost = self.cost(batch)
        if cost is not None:
            self.fabric.backward(cost.loss)
            self._gathered += 1
        progress.step += 1
        progress.batch += 1
        norm = self._descend() if self._group_complete() and self._gathered else None
        if cost is None:
            return "nothing to learn from in this batch"
        loss, metrics, units = cost
        values = {"loss": float(loss.detach()), **{name: float(value) for name, value in metrics.items()}}
        if norm is not None:
            values["gradient_norm"] = norm
        speed = units / (time.perf_counter() - began)
        log.step(
            progress.step,
            {**values, "learning_rate": self.optimiser.param_groups[0]["lr"], f"{self.units}_per_second": speed},
        )
        shown = next(iter(metrics), "loss")
        return f"{shown} {values[shown]:.3f}  {speed:.0f} {self.units}/s"

    def _group_complete(self) -> bool:
        """Tell whether the gradients of all batches so far have been used; those at the end of an epoch may be fewer."""
        return self.progress.batch % self.settings.accumulate == 0 or self.progress.batch == self.steps

    def _descend(self) -> float:
        """Take a step of the optimiser along the mean gradient of the batches that wait, and return its norm before it was clipped.

        A 16-bit gradient that is too large for its scale is not used; the scale is then lowered.
        """
        if self._gathered > 1:
            gradients = [p.grad for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_div_(gradients, float(self._gathered))
        self._gathered = 0
        self._stepper = self._stepper or self.fabric.setup_optimizers(self.optimiser)
        norm = self.fabric.clip_gradients(
            self.model, self._stepper, max_norm=self.settings.optimiser.clip, error_if_nonfinite=False
        )
        assert norm is not None  # as there is a largest norm
        scale = self.fabric.strategy.precision.state_dict().get("scale", 0.0)
        if not torch.isfinite(norm) and scale <= 1:
            raise ConfigError(
                f"training diverged at step {self.progress.step} (the gradient is {float(norm)}); lower optimiser.learning_rate"
            )
        self._stepper.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._average()
        return float(norm)

    @torch.no_grad()
    def _average(self) -> None:
        step, decay = self.progress.step, self.settings.average
        decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        for now, mean in self.parts().values():
            torch._foreach_lerp_(list(mean.parameters()), list(now.parameters()), 1.0 - decay)

    def _evaluate(self, log: Log) -> None:
        """Score the model on dev and keep it if it is the best so far."""
        progress = self.progress
        values = self.evaluate()
        log.evaluation(progress.epoch, progress.step, values)
        better = values[self.metric] > progress.best
        scores = "  ".join(f"{name} {100 * value:.1f}" for name, value in values.items())
        self.console.print(f"epoch {progress.epoch}: {scores}" + ("  (best)" if better else ""))
        if better:
            progress.best, progress.best_epoch, progress.waited = values[self.metric], progress.epoch, 0
            self.save("best")
        else:
            progress.waited += 1


def bar(console: Console) -> Bar:
    """Make a progress bar with room for a line of information, ``info``, at its end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Bar(*columns, TextColumn("{task.fields[info]}"), console=console, refresh_per_second=2)
