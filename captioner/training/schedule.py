"""The learning rate over a training run."""

from __future__ import annotations

import math

from captioner.training.recipe import OptimiserConfig


def learning_rate_factor(step: int, total: int, config: OptimiserConfig) -> float:
    """Return the share of the peak learning rate at ``step`` of ``total``: a linear warm-up, then the schedule."""
    warmup = max(1, round(config.warmup * total))
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}[config.schedule]
