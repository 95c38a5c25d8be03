"""Optimiser steps in mixed precision, with gradients accumulated over batches and averaged over processes.

DistributedDataParallel cannot average them here: it supports one ``forward`` call of one module per step, while an
objective calls the refiner, the decoder, and single steps of the decoder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from captioner.data.batches import Captions, Weights
from captioner.errors import ConfigError
from captioner.machine.backend import fast_dtype
from captioner.machine.processes import Processes
from captioner.training.recipe import RunConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)


class BatchLoss(NamedTuple):
    """The loss and metrics of a batch.

    Attributes:
        loss: scalar to minimise.
        metrics: scalars to log; the first is reported with the progress.
        units: number of the loop's units in the batch, such as captions, for the speed.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    units: int


def start_fabric(config: RunConfig, device: torch.device, warn: Callable[[str], object]) -> tuple[Fabric, str]:
    """Set up the device and the precision of this process.

    Args:
        config: the recipe; its precision ``auto`` is bfloat16 where that is fast.
        device: of this process.
        warn: receives a warning of a precision that the device does not support.

    Returns:
        Fabric, and the precision.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    precision = config.precision
    if precision == "16-mixed" and device.type == "cpu":
        warn("precision: 16-mixed is for GPUs; this run uses auto")
        precision = "auto"
    if precision == "auto":
        precision = "bf16-mixed" if fast_dtype(device) == torch.bfloat16 else "32-true"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it logs every choice
    # One device per process, also under torchrun.
    fabric = Fabric(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        precision=precision,
        plugins=LightningEnvironment(),
    )
    log.info("training in precision %s", precision)
    return fabric, precision


class Gradients:
    """The gradients of the batches since the last optimiser step.

    Args:
        fabric: of this process.
        processes: those that share each batch.
        clip: the largest norm of the mean gradient; a longer one is scaled down.

    Attributes:
        batches: number of accumulated batches.
    """

    def __init__(self, fabric: Fabric, processes: Processes, *, clip: float) -> None:
        self._fabric, self._processes, self._clip = fabric, processes, clip
        self._stepper: Any = None  # the optimiser, wrapped by Fabric
        self.batches = 0

    def add(self, captions: Captions, batch_loss: Callable[[Captions], BatchLoss]) -> BatchLoss | None:
        """Add the gradients of this process's part of a batch.

        Args:
            captions: of this process's part of the batch.
            batch_loss: computes their loss, with their weights in the whole batch.

        Returns:
            The loss; ``None`` if the part is empty.
        """
        means = torch.tensor(captions.sizes, dtype=torch.float64)
        self._processes.average([means])
        self.batches += bool(means.any())
        if not captions.captions:
            return None
        weights = Weights(*(size / mean for size, mean in zip(captions.sizes, means.tolist(), strict=True)))
        with self._fabric.autocast():
            result = batch_loss(replace(captions, weights=weights).to(self._fabric.device))
        self._fabric.backward(result.loss)
        return result

    def step(self, model: nn.Module, optimiser: torch.optim.Optimizer, number: int) -> float:
        """Step with the mean gradient of the accumulated batches, and return its norm before clipping.

        At 16-mixed, a gradient that overflows is skipped, and the loss scale is lowered.

        Args:
            model: the model.
            optimiser: the optimiser of its parameters; the same in each call.
            number: of the step, for errors.

        Raises:
            ConfigError: the gradient is not finite.
        """
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        if self._processes.several:
            self._average_over_processes(parameters)
        if self.batches > 1:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            torch._foreach_div_(gradients, float(self.batches))
        self.batches = 0
        self._stepper = self._stepper or self._fabric.setup_optimizers(optimiser)
        norm = self._fabric.clip_gradients(model, self._stepper, max_norm=self._clip, error_if_nonfinite=False)
        assert norm is not None  # since max_norm is given
        scale = self._fabric.strategy.precision.state_dict().get("scale", 0.0)
        if not torch.isfinite(norm) and scale <= 1:
            raise ConfigError(
                f"training diverged at step {number} (the gradient is {float(norm)}); lower optimiser.learning_rate"
            )
        self._stepper.step()
        optimiser.zero_grad(set_to_none=True)
        return float(norm)

    def _average_over_processes(self, parameters: list[Tensor]) -> None:
        """Average the gradients. A gradient that is ``None`` in all processes stays so."""
        present = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
        self._processes.average([present])
        chosen = [parameter for parameter, share in zip(parameters, present.tolist(), strict=True) if share]
        for parameter in chosen:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._processes.average([parameter.grad for parameter in chosen if parameter.grad is not None])
