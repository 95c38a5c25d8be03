from __future__ import annotations

import numpy as np
import pytest

from captioner.benchmark.cost import Spread, summarise, turns
from captioner.benchmark.worker import peak_memory


def test_every_model_has_every_place_in_the_order_equally_often() -> None:
    names = ["a", "b", "c"]
    orders = [turns(names, turn) for turn in range(6)]
    assert orders[0] == names and all(sorted(order) == names for order in orders)
    for place in range(3):
        assert sorted(order[place] for order in orders) == sorted(names * 2)


def test_spread_is_of_the_order_statistics() -> None:
    assert Spread.of(np.arange(101.0)) == Spread(p50=50.0, p95=95.0, low=25.0, high=75.0)


def test_a_noisy_machine_does_not_change_the_verdict() -> None:
    """The second model is twice as fast; a load that comes and goes slows both down together, tenfold at its worst."""
    random = np.random.default_rng(0)
    load = np.repeat(random.uniform(1, 10, 6), 5)[:, None]
    first, second = np.array([[0.08, 0.02]]) * load, np.array([[0.04, 0.01]]) * load
    second *= random.uniform(0.95, 1.05, second.shape)
    (timing,) = summarise([4], second[None], first[None])
    assert timing.speed.p50 == pytest.approx(2.0, rel=0.02)
    assert 1.9 < timing.speed.low <= timing.speed.high < 2.1
    assert timing.throughput.high > 2 * timing.throughput.low  # while the plain numbers are all over the place
    assert timing.total.p50 == pytest.approx(1000 * np.median(second.sum(1)))
    assert timing.throughput.p50 == pytest.approx(np.median(4 / second.sum(1)))


def test_the_peak_is_of_this_process_and_rises() -> None:
    before = peak_memory()
    assert 5 < before < 100_000
    kept = np.ones(40_000_000)
    assert peak_memory() >= min(before + 100, 320) and kept[0] == 1
