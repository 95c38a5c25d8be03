"""The training loop of every run: steps, learning rate, moving average, evaluation, early stopping, log, saved state.

A run's folder holds ``best`` and ``last`` (model folders), ``log.jsonl``, TensorBoard curves in ``curves``,
``config.json`` and the state to resume from. A run that is killed at any moment and resumed on the CPU of the same
machine ends with bit-identical weights to those of an uninterrupted run.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from captioner import files
from captioner.backend import choose_device, fast_dtype
from captioner.data.batches import prefetch
from captioner.errors import CheckpointError, ConfigError
from captioner.training.log import Log, bar
from captioner.training.objective import Objective
from captioner.training.recipe import RunConfig
from captioner.training.schedule import learning_rate_factor
from captioner.training.state import Progress, load_state, save_state

B = TypeVar("B")
STATE, CONFIG = "state.safetensors", "config.json"


class Cost(NamedTuple):
    """The loss of a batch and what is logged with it.

    Attributes:
        loss: scalar to minimise.
        metrics: scalars to log; the first is shown beside the progress bar.
        units: number of the loop's units in the batch.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    units: int


class Loop(ABC, Generic[B]):
    """One training run: a subclass provides model, batches, their loss and dev scores, :meth:`run` the rest.

    The subclass's constructor sets :attr:`model`, :attr:`optimiser` (by :meth:`adamw`), :attr:`objective` and
    :attr:`steps`.

    Attributes:
        metric: the dev score that selects the best epoch.
        units: what speed is measured in.
        model: what is trained; its ``train`` decides which of its parts are in training mode.
        optimiser: its groups hold their peak learning rate as ``rate``.
        objective: computes the loss of a batch; its state is saved with the run's.
        steps: batches per epoch.
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
                f"{self.output}: holds a run already; continue it with --resume, or give another --output"
            )
        if resume and not (self.output / STATE).exists():
            raise CheckpointError(f"{self.output}: holds no run to resume; leave out --resume to start one")
        self.device = choose_device(config.device)
        precision = config.precision
        if precision == "16-mixed" and self.device.type == "cpu":
            console.print("precision: 16-mixed is for GPUs; this run uses auto", style="yellow")
            precision = "auto"
        if precision == "auto":
            precision = "bf16-mixed" if fast_dtype(self.device) == torch.bfloat16 else "32-true"
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it logs every choice
        self.fabric = Fabric(accelerator=self.device.type, devices=1, precision=precision)
        self.precision = precision
        self.progress = Progress()
        self._stepper: Any = None  # the optimiser as Fabric steps it
        self._accumulated = 0  # batches whose gradients wait for a step of the optimiser
        torch.manual_seed(config.seed)

    @abstractmethod
    def parts(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Return the modules that are trained now, by name, each with its moving average."""

    @abstractmethod
    def batches(self, epoch: int, skip: int) -> Iterator[B]:
        """Make the batches of an epoch, counted from 0, without the first ``skip``.

        It is called in a thread, so it must use a random generator of its own.
        """

    @abstractmethod
    def cost(self, batch: B) -> Cost | None:
        """Compute the loss of a batch, under autocast; ``None`` for a batch with nothing to learn from.

        Such a batch still counts as a step.
        """

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Score the averaged model on dev and return fractions by name, including :attr:`metric`."""

    @abstractmethod
    def save(self, name: str) -> None:
        """Write the averaged model to the folder ``name`` of the output."""

    @abstractmethod
    def describe(self) -> str:
        """Return one line that says what is trained on what."""

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch, counted from 0; on resuming it is also called for the epoch the run had reached."""

    def adamw(self, groups: list[tuple[nn.Module, float]]) -> torch.optim.Optimizer:
        """Make the optimiser for modules, each with its peak learning rate."""
        config = self.settings.optimiser
        # At 16-mixed, gradients must be clipped after they are unscaled, but a fused optimiser unscales them itself.
        scales = bool(self.fabric.strategy.precision.state_dict())
        return torch.optim.AdamW(
            [{"params": list(module.parameters()), "rate": rate} for module, rate in groups],
            lr=0.0,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda") and not scales,
        )

    def load(self) -> None:
        """Load the saved state."""
        self.progress = load_state(self.output / STATE, self._modules(), self.optimiser, self._fixed_settings())
        self.fabric.strategy.precision.load_state_dict(self.progress.scaler)

    def run(self) -> Path:
        """Train, or continue training, and return the folder of the best model.

        Raises:
            CaptionerError: the saved state cannot be resumed, or training diverged.
        """
        best, progress, settings = self.output / "best", self.progress, self.settings
        self.output.mkdir(parents=True, exist_ok=True)
        if self.resume:
            self.load()
            progress = self.progress
            if progress.finished:
                self.console.print(f"this run is already finished: {best}")
                return best
        else:
            files.write_text(self.output / CONFIG, settings.model_dump_json(indent=2) + "\n")
        log = Log(self.output, progress.step if self.resume else None)
        self.console.print(f"{self.describe()}; {self.device}, {self.precision}")
        began, before, saved = time.monotonic(), progress.seconds, time.monotonic()
        try:
            with bar(self.console) as progress_bar:
                total = self.steps * settings.epochs
                task = progress_bar.add_task("training", total=total, completed=progress.step, info="")
                for epoch in range(progress.epoch, settings.epochs):
                    self.begin_epoch(epoch)
                    for batch in prefetch(self.batches(epoch, progress.batch)):
                        progress_bar.update(task, info=self._step(batch, log), completed=progress.step)
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
            self.console.print(f"stopped; --resume --output {self.output} continues the run from its last saved state")
            raise
        finally:
            log.close()
        self.console.print(
            f"best {self.metric} on dev {100 * progress.best:.1f} after epoch {progress.best_epoch}, "
            f"{progress.seconds / 60:.1f} minutes in total: {best}"
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
        """Train on one batch and return what to show beside the progress bar."""
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
            self._accumulated += 1
        progress.step += 1
        progress.batch += 1
        norm = self._optimiser_step() if self._group_complete() and self._accumulated else None
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
        """Return whether a group of batches is complete; the last group of an epoch may be smaller."""
        return self.progress.batch % self.settings.accumulate == 0 or self.progress.batch == self.steps

    def _optimiser_step(self) -> float:
        """Take a step along the mean gradient of the accumulated batches, and return its norm before clipping.

        A 16-bit gradient that overflows at its scale is skipped, and the scale lowered.
        """
        if self._accumulated > 1:
            gradients = [p.grad for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_div_(gradients, float(self._accumulated))
        self._accumulated = 0
        self._stepper = self._stepper or self.fabric.setup_optimizers(self.optimiser)
        norm = self.fabric.clip_gradients(
            self.model, self._stepper, max_norm=self.settings.optimiser.clip, error_if_nonfinite=False
        )
        assert norm is not None  # because max_norm is given
        scale = self.fabric.strategy.precision.state_dict().get("scale", 0.0)
        if not torch.isfinite(norm) and scale <= 1:
            raise ConfigError(
                f"training diverged at step {self.progress.step} (the gradient is {float(norm)}); "
                "lower optimiser.learning_rate"
            )
        self._stepper.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._update_average()
        return float(norm)

    @torch.no_grad()
    def _update_average(self) -> None:
        step, decay = self.progress.step, self.settings.average
        decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        for now, mean in self.parts().values():
            torch._foreach_lerp_(list(mean.parameters()), list(now.parameters()), 1.0 - decay)

    def _evaluate(self, log: Log) -> None:
        """Score the model on dev and save it if it is the best so far."""
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
