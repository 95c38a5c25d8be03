"""The training loop of every run: steps, learning rate, moving average, evaluation, early stopping, log and state.

A run's folder holds ``best`` and ``last`` (model folders), ``log.jsonl``, ``config.json``, the state to resume from,
and what its loggers write. A run that was killed at any moment and is resumed on the same machine's CPU ends
with the same bits as an uninterrupted run. A resumed run may have more epochs or patience, even if it was finished;
:mod:`captioner.training.resume` refuses other changes.

Under ``torchrun`` several processes share every batch, and their gradients are averaged before each optimiser step.
DistributedDataParallel cannot do this: it supports one ``forward`` call per step, while objectives also call a
decoder's refiner and its single steps. The means of a process are weighted by the size of its part, so losses and
weights equal those of one process with the same batches.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from captioner import files, store
from captioner.data.batches import Captions, Weights, prefetch
from captioner.errors import CheckpointError, ConfigError, FileError
from captioner.machine.backend import choose_device, device_name, fast_dtype
from captioner.machine.packages import require
from captioner.machine.processes import Processes
from captioner.machine.randomness import generator_states
from captioner.training.events import SILENT, Events
from captioner.training.log import Log
from captioner.training.objective import Objective
from captioner.training.recipe import RunConfig
from captioner.training.resume import changed_settings, check_output, fixed_settings
from captioner.training.schedule import learning_rate_factor
from captioner.training.state import STATE, RunProgress, load_state, save_state

log = logging.getLogger(__name__)


class Captioned(Protocol):
    """A batch with captions."""

    @property
    def captions(self) -> Captions:
        """The captions that the model learns to write."""


B = TypeVar("B", bound=Captioned)
CONFIG = "config.json"


class BatchLoss(NamedTuple):
    """The loss and metrics of a batch.

    Attributes:
        loss: scalar to minimise.
        metrics: scalars to log; the first is reported with the progress.
        units: number of the loop's units in the batch, for the speed.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    units: int


class Loop(ABC, Generic[B]):
    """One training run. A subclass provides the model, the batches, their loss and the dev scores.

    The subclass's constructor sets :attr:`model`, :attr:`optimiser` (by :meth:`adamw`), :attr:`objective` and
    :attr:`steps`.

    Attributes:
        metric: the dev score that selects the best epoch.
        units: the items counted per second.
        pretrained: whether the model was trained before; it is then evaluated first, as the first best model.
        model: the model; its ``train`` method selects the modules in training mode.
        optimiser: the optimiser, whose groups hold their peak learning rate as ``rate``.
        objective: computes the loss of a batch.
        steps: batches per epoch.
        processes: this process among those that train.
        changed: settings changed since a resumed run was last saved: old and new value.
        score: :attr:`metric` of the last evaluation.
        data: :func:`~captioner.training.state.data_hash` of the training data; a resumed run must have the same.
    """

    metric: ClassVar[str]
    units: ClassVar[str]
    pretrained: bool = False
    model: nn.Module
    optimiser: torch.optim.Optimizer
    objective: Objective
    steps: int
    score: float = 0.0
    data: str = ""

    def __init__(self, config: RunConfig, *, resume: bool, events: Events) -> None:
        require("training", "lightning_fabric")
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment

        self.processes = Processes.join()
        self.events = events if self.processes.first else SILENT
        self.settings, self.resume, self.output = config, resume, config.output
        check_output(self.output, resume=resume)
        self.changed = changed_settings(config) if resume else {}
        self.device = choose_device(config.device, number=self.processes.local_rank)
        precision = config.precision
        if precision == "16-mixed" and self.device.type == "cpu":
            self.events.warn("precision: 16-mixed is for GPUs; this run uses auto")
            precision = "auto"
        if precision == "auto":
            precision = "bf16-mixed" if fast_dtype(self.device) == torch.bfloat16 else "32-true"
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it logs every choice
        # One device per process, also under torchrun.
        self.fabric = Fabric(
            accelerator=self.device.type,
            devices=1 if self.device.index is None else [self.device.index],
            precision=precision,
            plugins=LightningEnvironment(),
        )
        self.precision = precision
        log.info("training in precision %s", precision)
        self.progress = RunProgress()
        self._stepper: Any = None  # the optimiser, wrapped by Fabric
        self._accumulated = 0  # batches since the last optimiser step
        self._saved = 0.0  # when the state was saved, by the monotonic clock
        torch.manual_seed(config.seed)

    @abstractmethod
    def parts(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Return the modules that are currently trained, by name, each with its moving average."""

    @abstractmethod
    def batches(self, epoch: int, skip: int) -> Iterator[B]:
        """Yield this process's parts of an epoch's batches, without the first ``skip``; epochs count from 0.

        A part may be empty. This runs in a thread, so it must use its own random generator.
        """

    @abstractmethod
    def cost(self, batch: B, captions: Captions) -> BatchLoss:
        """Compute the loss of a batch, under autocast.

        A batch without captions counts as a step, but its loss is not computed.

        Args:
            batch: at least one image.
            captions: their captions, on the device.
        """

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Score the averaged model on dev and return fractions by name, including :attr:`metric`.

        All processes call this and get the same scores.
        """

    @abstractmethod
    def save(self, name: str) -> None:
        """Write the averaged model to the folder ``name`` in the output; only the first process calls this."""

    def finish(self) -> None:
        """Complete the saved models at the end of a run; only the first process calls this."""

    @abstractmethod
    def describe(self) -> str:
        """Describe the model and its training data in one line."""

    def about(self) -> dict[str, Any]:
        """Return the run's entries in a saved model's config.

        ``devices`` are the cores of a CPU, or the GPUs, that trained together. ``minutes`` are those until now; at the
        end of the run, :meth:`run` writes those of the whole run into the best model as well.
        """
        return {
            "seed": self.settings.seed,
            "precision": self.precision,
            "epoch": self.progress.epoch,
            "minutes": self.minutes,
            "device": device_name(self.device),
            "devices": self.processes.count * (torch.get_num_threads() if self.device.type == "cpu" else 1),
        }

    @property
    def minutes(self) -> float:
        """Return the minutes of the run so far, over all starts, with its evaluations."""
        return round(self.progress.seconds / 60, 1)

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch, counted from 0; a resumed run begins its current epoch again."""

    def adamw(self, groups: list[tuple[nn.Module, float]]) -> torch.optim.Optimizer:
        """Return the optimiser for modules, each with its peak learning rate."""
        config = self.settings.optimiser
        # At 16-mixed, gradients must be unscaled before clipping, but a fused optimiser unscales them itself.
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
        self.progress = load_state(self.output / STATE, self._modules(), self.optimiser, self.processes)
        progress = self.progress
        if progress.data and self.data and progress.data != self.data:
            raise CheckpointError(
                f"{self.output / STATE}: this run began with other data: its vocabulary, images or captions "
                "have changed; put back the data, or start another run with another --output"
            )
        if progress.step != progress.epoch * self.steps + progress.batch:
            raise CheckpointError(
                f"{self.output / STATE}: this run began with other data: it has made {progress.step:,} steps, which "
                f"are not {progress.epoch} epochs of {self.steps:,} and {progress.batch:,} batches; put back the data, "
                "or start another run with another --output"
            )
        self.fabric.strategy.precision.load_state_dict(self.progress.scaler)

    def run(self) -> Path:
        """Train, or resume training, and return the folder of the best model.

        Raises:
            CaptionerError: the saved state cannot be resumed, training diverged, or the disk is full.
        """
        best, progress, settings, first = self.output / "best", self.progress, self.settings, self.processes.first
        self.output.mkdir(parents=True, exist_ok=True)
        if first:
            files.remove_leftovers(self.output)
        if not first:
            torch.manual_seed(settings.seed + 1_000_003 * self.processes.rank)  # for different dropout
        if self.resume:
            self.load()
            progress = self.progress
            lost = progress.best >= 0 and not best.exists()
            if self._is_finished():
                if lost:
                    raise CheckpointError(
                        f"{best}: is missing, but this run is finished; {self.output / 'last'} holds the model of "
                        "its last epoch, and a larger --set epochs=N trains it further and saves its best again"
                    )
                self.events.note(
                    f"this run is already finished: {best}; it has {progress.epoch} epochs, and a "
                    "larger --set epochs=N trains it further"
                )
                return best
            if lost:
                self.events.warn(f"{best}: is missing; the next evaluation writes it again")
                progress.best, progress.waited = -1.0, 0
        if first and (self.changed or not self.resume):
            files.write_text(self.output / CONFIG, settings.model_dump_json(indent=2) + "\n")
        log = Log(settings, progress.step if self.resume else None, self.events.warn) if first else None
        shared = f", {self.processes.count} processes" if self.processes.several else ""
        self.events.note(f"{self.describe()}; {self.device.type}, {self.precision}{shared}")
        began, before = time.monotonic(), progress.seconds
        self._saved = began
        try:
            total = self.steps * settings.epochs
            self.events.progress("training", progress.step, total, "")
            if self.pretrained and not self.resume:
                self._evaluate(log)
            for epoch in range(progress.epoch, settings.epochs):
                self.begin_epoch(epoch)
                for batch in prefetch(self.batches(epoch, progress.batch)):
                    info, due = self._step(batch, log)
                    self.events.progress("training", progress.step, total, info)
                    progress.seconds = before + time.monotonic() - began
                    if due and self._group_complete():
                        self._save_state()
                progress.epoch, progress.batch = epoch + 1, 0
                last = progress.epoch == settings.epochs
                if last or progress.epoch % settings.evaluation.every == 0:
                    self._evaluate(log)
                progress.seconds = before + time.monotonic() - began
                progress.finished = last or progress.waited >= settings.evaluation.patience
                if progress.finished and first:
                    self.save("last")
                    self.finish()
                    if (best / store.CONFIG).is_file():  # saved earlier, while the run had more to do
                        store.change_about(best, minutes=self.minutes)
                self._save_state()
                if progress.finished:
                    break
        except (KeyboardInterrupt, FileError):
            saved = (self.output / STATE).exists()
            how = "--resume continues the run from its last saved state" if saved else "nothing was saved yet"
            self.events.note(f"stopped; {how}: {self.output}")
            raise
        finally:
            if log:
                log.close()
        when = f"after epoch {progress.best_epoch}"
        if progress.best_epoch == 0:
            when = "before training, which no epoch improved; more images, or a lower optimiser.learning_rate, may help"
        self.events.note(
            f"best {self.metric} on dev {100 * progress.best:.1f} {when}, {self.minutes} minutes in total: {best}"
        )
        return best

    def time_a_step(self, epoch: int, *, steps: int = 3) -> float:
        """Return the seconds per step in an epoch, averaged over a few steps after a first one."""
        batches = list(islice(self.batches(epoch, 0), steps + 1))
        self._step(batches[0], None)
        began = time.perf_counter()
        for number in range(1, steps + 1):
            self._step(batches[number % len(batches)], None)
        return (time.perf_counter() - began) / steps

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {}
        for name, (now, mean) in self.parts().items():
            modules |= {name: now, f"average.{name}": mean}
        return modules

    def _is_finished(self) -> bool:
        """Return whether a resumed run has nothing left to do, given its epochs and patience now."""
        progress, settings = self.progress, self.settings
        patience = settings.evaluation.patience
        if "epochs" in self.changed:
            before, now = self.changed["epochs"]
            if progress.finished and progress.waited >= patience:
                progress.waited = 0  # more epochs are requested, though it had stopped early
            rates = [
                learning_rate_factor(progress.step, self.steps * epochs, settings.optimiser, epochs=epochs)
                * settings.optimiser.learning_rate
                for epochs in (before, now)
            ]
            self.events.note(
                f"epochs: {now} instead of {before}; the learning rate follows its schedule "
                f"({settings.optimiser.schedule}) over {now} epochs from now on and is "
                f"{rates[1]:.2g} instead of {rates[0]:.2g}"
            )
        if progress.finished and (progress.epoch >= settings.epochs or progress.waited >= patience):
            return True
        progress.finished = False
        return False

    def _save_state(self) -> None:
        self.progress.scaler, self.progress.data = self.fabric.strategy.precision.state_dict(), self.data
        generators = self.processes.gather(generator_states())
        if self.processes.first:
            save_state(
                self.output / STATE,
                self.progress,
                self._modules(),
                self.optimiser,
                fixed_settings(self.settings),
                generators,
            )
        self._saved = time.monotonic()

    def _step(self, batch: B, log: Log | None) -> tuple[str, bool]:
        """Train on one batch; return details for the progress, and whether the state should be saved."""
        began, progress, settings = time.perf_counter(), self.progress, self.settings
        total = self.steps * settings.epochs
        factor = learning_rate_factor(progress.step, total, settings.optimiser, epochs=settings.epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * factor
        self.model.train()
        self.objective.done = progress.step / total
        cost, empty = self._backward(batch)
        self._accumulated += not empty
        progress.step += 1
        progress.batch += 1
        norm = self._optimiser_step() if self._group_complete() and self._accumulated else None
        values = (
            {"loss": float(cost.loss.detach()), **{name: float(value) for name, value in cost.metrics.items()}}
            if cost
            else {}
        )
        due = time.monotonic() - self._saved > 60 * settings.save_minutes
        parts = self.processes.gather((values, cost.units if cost else 0, due))
        due = parts[0][2]  # the processes' clocks may differ
        if empty:
            return "no captions in this batch", due
        names = list(next(part for part, _, _ in parts if part))
        values = {name: sum(part.get(name, 0.0) for part, _, _ in parts) / len(parts) for name in names}
        speed = sum(units for _, units, _ in parts) / (time.perf_counter() - began)
        shown = names[1 if len(names) > 1 else 0]
        info = f"{shown} {values[shown]:.3f}  {speed:.0f} {self.units}/s"
        if norm is not None:
            values["gradient_norm"] = norm
        if log:
            rate = self.optimiser.param_groups[0]["lr"]
            log.step(progress.step, {**values, "learning_rate": rate, f"{self.units}_per_second": speed})
        return info, due

    def _backward(self, batch: B) -> tuple[BatchLoss | None, bool]:
        """Compute the loss of this process's part of a batch and accumulate its gradients.

        Returns:
            The loss, ``None`` if the part is empty; and whether the whole batch is empty.
        """
        captions = batch.captions
        means = torch.tensor(captions.sizes, dtype=torch.float64)
        self.processes.average([means])
        if not captions.captions:
            return None, not means.any()
        weights = Weights(*(size / mean for size, mean in zip(captions.sizes, means.tolist(), strict=True)))
        with self.fabric.autocast():
            cost = self.cost(batch, replace(captions, weights=weights).to(self.device))
        self.fabric.backward(cost.loss)
        return cost, False

    def _group_complete(self) -> bool:
        """Return whether the accumulated batches are complete; the last group of an epoch may be smaller."""
        return self.progress.batch % self.settings.accumulate == 0 or self.progress.batch == self.steps

    def _optimiser_step(self) -> float:
        """Step with the mean gradient of the accumulated batches, and return its norm before clipping.

        At 16-mixed, a gradient that overflows is skipped, and the loss scale is lowered.
        """
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        if self.processes.several:
            self._average_over_processes(parameters)
        if self._accumulated > 1:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            torch._foreach_div_(gradients, float(self._accumulated))
        self._accumulated = 0
        self._stepper = self._stepper or self.fabric.setup_optimizers(self.optimiser)
        norm = self.fabric.clip_gradients(
            self.model, self._stepper, max_norm=self.settings.optimiser.clip, error_if_nonfinite=False
        )
        assert norm is not None  # since max_norm is given
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

    def _average_over_processes(self, parameters: list[nn.Parameter]) -> None:
        """Average the gradients. A gradient that is ``None`` in all processes stays so."""
        present = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
        self.processes.average([present])
        chosen = [parameter for parameter, share in zip(parameters, present.tolist(), strict=True) if share]
        for parameter in chosen:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.processes.average([parameter.grad for parameter in chosen if parameter.grad is not None])

    @torch.no_grad()
    def _update_average(self) -> None:
        step, decay = self.progress.step, self.settings.average
        decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        for now, mean in self.parts().values():
            torch._foreach_lerp_(list(mean.parameters()), list(now.parameters()), 1.0 - decay)

    def _evaluate(self, log: Log | None) -> None:
        """Score the averaged model on dev, and save it if it is the best so far."""
        progress = self.progress
        values = self.evaluate()
        if log:
            log.evaluation(progress.epoch, progress.step, values)
        self.score = values[self.metric]
        better = self.score > progress.best
        scores = "  ".join(f"{name} {100 * value:.1f}" for name, value in values.items())
        when = f"epoch {progress.epoch}" if progress.epoch else "before"
        self.events.note(f"{when}: {scores}" + ("  (best)" if better and progress.epoch else ""))
        if better:
            progress.best, progress.best_epoch, progress.waited = self.score, progress.epoch, 0
            if self.processes.first:
                self.save("best")
        else:
            progress.waited += 1
