"""The training loop of every run: steps, learning rate, moving average, evaluation, early stopping, log and state.

A run's folder holds ``best`` and ``last`` (model folders), ``log.jsonl``, ``config.json``, the state to resume from,
and the files of its loggers. A run that is killed at any moment and resumed on the same machine's CPU ends with the
same bits as an uninterrupted run. A resumed run may have more epochs or more patience, even if it was finished;
:mod:`captioner.training.resume` refuses other changes.

Under ``torchrun`` several processes share every batch, and their gradients are averaged before each optimiser step. The
means of a process are weighted by the size of its part, so losses and weights equal those of a single process with the
same batches.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import nn

from captioner import files, store
from captioner.data.batches import Captions, prefetch
from captioner.errors import CheckpointError, FileError
from captioner.machine.backend import choose_device, device_name
from captioner.machine.packages import require
from captioner.machine.processes import Processes
from captioner.machine.randomness import generator_states
from captioner.training.events import SILENT, Events
from captioner.training.log import Log
from captioner.training.objective import Objective
from captioner.training.optimisation import BatchLoss, Gradients, start_fabric
from captioner.training.recipe import RunConfig
from captioner.training.resume import changed_settings, check_data, check_models, check_output, fixed_settings
from captioner.training.schedule import learning_rate_factor
from captioner.training.state import STATE, RunProgress, load_state, save_state

log = logging.getLogger(__name__)


class HasCaptions(Protocol):
    """A batch with captions."""

    @property
    def captions(self) -> Captions:
        """The reference captions."""


B = TypeVar("B", bound=HasCaptions)
CONFIG = "config.json"


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
        self.processes = Processes.join()
        self.events = events if self.processes.first else SILENT
        self.settings, self.resume, self.output = config, resume, config.output
        check_output(self.output, resume=resume)
        self.changed = changed_settings(config) if resume else {}
        self.device = choose_device(config.device, number=self.processes.local_rank)
        self.fabric, self.precision = start_fabric(config, self.device, self.events.warn)
        self.gradients = Gradients(self.fabric, self.processes, clip=config.optimiser.clip)
        self.progress = RunProgress()
        self._saved = 0.0  # time of the last saved state, by the monotonic clock
        torch.manual_seed(config.seed)

    @abstractmethod
    def trained_modules(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Return the modules that are currently trained, by name, each with its moving average."""

    @abstractmethod
    def batches(self, epoch: int, skip: int) -> Iterator[B]:
        """Yield this process's parts of the batches of an epoch, counted from 0, without the first ``skip``.

        A part may be empty. This runs in a thread, so it must use a separate random generator.
        """

    @abstractmethod
    def batch_loss(self, batch: B, captions: Captions) -> BatchLoss:
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

        ``devices`` is the number of CPU threads, or of GPUs, over all processes. ``minutes`` is the time until now; at
        the end of the run, :meth:`run` writes that of the whole run into the best model as well.
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
        """Prepare an epoch, counted from 0; a resumed run calls this again for its current epoch."""

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
        check_data(self.output / STATE, self.progress, self.data, self.steps)
        self.fabric.strategy.precision.load_state_dict(self.progress.scaler)

    def run(self) -> Path:
        """Train, or resume training, and return the folder of the best model.

        Raises:
            CaptionerError: the saved state cannot be resumed, training diverged, or the disk is full.
        """
        best, settings, first = self.output / "best", self.settings, self.processes.first
        self.output.mkdir(parents=True, exist_ok=True)
        if first:
            files.remove_leftovers(self.output)
        else:
            torch.manual_seed(settings.seed + 1_000_003 * self.processes.rank)  # for different dropout
        if self.resume and self._resume(best):
            return best
        if first and (self.changed or not self.resume):
            files.write_text(self.output / CONFIG, settings.model_dump_json(indent=2) + "\n")
        log = Log(settings, self.progress.step if self.resume else None, self.events.warn) if first else None
        shared = f", {self.processes.count} processes" if self.processes.several else ""
        self.events.note(f"{self.describe()}; {self.device.type}, {self.precision}{shared}")
        try:
            self._train(log)
        except (KeyboardInterrupt, FileError):
            saved = (self.output / STATE).exists()
            how = "--resume continues the run from its last saved state" if saved else "nothing was saved yet"
            self.events.note(f"stopped; {how}: {self.output}")
            raise
        finally:
            if log:
                log.close()
        when = f"after epoch {self.progress.best_epoch}"
        if self.progress.best_epoch == 0:
            when = "before training, which no epoch improved; more images, or a lower optimiser.learning_rate, may help"
        self.events.note(
            f"best {self.metric} on dev {100 * self.progress.best:.1f} {when}, {self.minutes} minutes in total: {best}"
        )
        return best

    def _resume(self, best: Path) -> bool:
        """Load the saved state, and return whether the run is finished already.

        Raises:
            CheckpointError: the state cannot be resumed, a saved model is damaged, or the run is finished and its best
                model is missing.
        """
        check_models(self.output)
        self.load()
        progress = self.progress
        lost = progress.best >= 0 and not best.exists()
        finished = self._is_finished()
        if finished and lost:
            raise CheckpointError(
                f"{best}: is missing, but this run is finished; {self.output / 'last'} holds the model of "
                "its last epoch, and a larger --set epochs=N trains it further and saves its best again"
            )
        if finished:
            self.events.note(
                f"this run is already finished: {best}; it has {progress.epoch} epochs, and a "
                "larger --set epochs=N trains it further"
            )
        elif lost:
            self.events.warn(f"{best}: is missing; the next evaluation writes it again")
            progress.best, progress.waited = -1.0, 0
        return finished

    def _train(self, log: Log | None) -> None:
        """Train the remaining epochs."""
        progress, settings, best = self.progress, self.settings, self.output / "best"
        began, before, total = time.monotonic(), progress.seconds, self.steps * settings.epochs
        self._saved = began
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
            if progress.finished and self.processes.first:
                self.save("last")
                self.finish()
                if (best / store.CONFIG).is_file():  # it was saved with the minutes until then
                    store.change_about(best, minutes=self.minutes)
            self._save_state()
            if progress.finished:
                break

    def time_a_step(self, epoch: int, *, steps: int = 3) -> float:
        """Return the seconds per step in an epoch, averaged over a few steps after a warm-up step."""
        batches = list(islice(self.batches(epoch, 0), steps + 1))
        self._step(batches[0], None)
        began = time.perf_counter()
        for number in range(1, steps + 1):
            self._step(batches[number % len(batches)], None)
        return (time.perf_counter() - began) / steps

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {}
        for name, (module, average) in self.trained_modules().items():
            modules |= {name: module, f"average.{name}": average}
        return modules

    def _is_finished(self) -> bool:
        """Return whether a resumed run is finished with its present epochs and patience."""
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
        result = self.gradients.add(batch.captions, partial(self.batch_loss, batch))
        progress.step += 1
        progress.batch += 1
        norm = None
        if self._group_complete() and self.gradients.batches:
            norm = self.gradients.step(self.model, self.optimiser, progress.step)
            self._update_average()
        values = (
            {"loss": float(result.loss.detach()), **{name: float(value) for name, value in result.metrics.items()}}
            if result
            else {}
        )
        due = time.monotonic() - self._saved > 60 * settings.save_minutes
        parts = self.processes.gather((values, result.units if result else 0, due))
        due = parts[0][2]  # the processes' clocks may differ
        if not any(part for part, _, _ in parts):
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

    def _group_complete(self) -> bool:
        """Return whether the accumulated batches are complete; the last group of an epoch may be smaller."""
        return self.progress.batch % self.settings.accumulate == 0 or self.progress.batch == self.steps

    @torch.no_grad()
    def _update_average(self) -> None:
        step, decay = self.progress.step, self.settings.average
        decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        for module, average in self.trained_modules().values():
            torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1.0 - decay)

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
