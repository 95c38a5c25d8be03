"""The learning rate over a training run."""

from __future__ import annotations

import math

from captioner.training.recipe import OptimiserConfig


def learning_rate_factor(step: int, total: int, config: OptimiserConfig, *, epochs: int = 1) -> float:
    """Return the share of the peak learning rate at ``step`` of ``total``: a linear warm-up, then the schedule.

    Args:
        step: finished steps.
        total: steps of the run.
        config: the schedule.
        epochs: of the run.
    """
    warmup = max(1, round(config.warmup * total))
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if config.schedule == "linear":
        return 1 - share
    if config.schedule == "inverse_root":
        return (warmup / (step + 1)) ** 0.5
    if config.schedule == "steps":
        return config.decay ** (step * epochs // total // config.decay_epochs)
    return 1.0
