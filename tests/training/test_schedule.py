"""The learning rate over a run."""

from __future__ import annotations

from itertools import pairwise

import pytest

from captioner.training.recipe import OptimiserConfig
from captioner.training.schedule import learning_rate_factor

SCHEDULES = OptimiserConfig.model_fields["schedule"].annotation.__args__  # type: ignore[union-attr]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rate_rises_then_falls(schedule: str) -> None:
    settings = OptimiserConfig.model_validate({"schedule": schedule, "warmup": 0.2})
    factors = [learning_rate_factor(step, 100, settings, epochs=20) for step in range(100)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert all(late <= early + 1e-12 for early, late in pairwise(factors[20:]))
    if schedule in ("cosine", "linear", "constant"):
        assert factors[20] == pytest.approx(1.0)
        assert factors[-1] == pytest.approx(1.0) if schedule == "constant" else factors[-1] < 0.02


def test_the_inverse_root_is_that_of_attention_is_all_you_need() -> None:
    config = OptimiserConfig(schedule="inverse_root", warmup=0.1)
    for step in range(1, 1001):
        noam = min(step**-0.5, step * 100**-1.5) / 100**-0.5  # section 5.3, over its peak
        assert learning_rate_factor(step - 1, 1000, config) == pytest.approx(noam)


def test_steps_apply_the_factor_every_few_epochs() -> None:
    config = OptimiserConfig(schedule="steps", warmup=0.0, decay=0.5, decay_epochs=3)
    for step in range(1, 70):
        assert learning_rate_factor(step, 70, config, epochs=7) == 0.5 ** (step // 10 // 3)
