"""The records of training runs in a config: their times and devices."""

from __future__ import annotations

from typing import Any

import pytest

from captioner.store import history
from tests.store.test_card import STAGE


def test_the_minutes_of_a_model_are_those_of_all_runs_whose_weights_it_contains() -> None:
    """Its own, those it started from, and those of the model whose encoder it took."""
    donor = STAGE | {"minutes": 100, "devices": 1, "start": STAGE | {"minutes": 30, "devices": 1}}
    first = STAGE | {"minutes": 5, "devices": 2, "encoder_from": donor}
    second = STAGE | {"minutes": 7, "devices": 2, "start": first}
    about = STAGE | {"minutes": 2.6, "device": "NVIDIA H200", "devices": 8, "start": second, "encoder_from": donor}
    assert [run["minutes"] for run in history.runs_of(about)] == [30, 100, 5, 7, 2.6], "a donor of two runs counts once"
    took = "130 minutes on one CPU core and 12 minutes on two CPU cores and 3 minutes on 8 NVIDIA H200"
    assert history.training_time(about) == took


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ({}, "a CPU"),
        ({"device": "cpu"}, "a CPU"),
        ({"device": "cpu", "devices": 1}, "one CPU core"),
        ({"device": "cpu", "devices": 16}, "16 CPU cores"),
        ({"device": "NVIDIA H200"}, "one NVIDIA H200"),
        ({"device": "NVIDIA H200", "devices": 2}, "two NVIDIA H200"),
    ],
)
def test_a_runs_device_is_named_with_its_cores(run: dict[str, Any], name: str) -> None:
    assert history.device_of(run) == name
