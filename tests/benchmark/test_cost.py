from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from captioner.benchmark import cost as module
from captioner.benchmark.cost import ModelCost, Percentiles, summarise, time_models, turns
from captioner.benchmark.worker import About, TimedModel, TimingJob, peak_memory
from captioner.model.checkpoint import save_model
from tests.figures.builders import make_image
from tests.model.test_checkpoint import tiny_model


def test_every_model_has_every_position_in_the_order_equally_often() -> None:
    names = ["a", "b", "c"]
    orders = [turns(names, turn) for turn in range(6)]
    assert orders[0] == names and all(sorted(order) == names for order in orders)
    for place in range(3):
        assert sorted(order[place] for order in orders) == sorted(names * 2)


def test_percentiles_are_order_statistics() -> None:
    assert Percentiles.of(np.arange(101.0)) == Percentiles(p50=50.0, p95=95.0, low=25.0, high=75.0)


def test_noise_of_the_machine_does_not_change_the_relative_speed() -> None:
    """The second model is twice as fast; a varying load slows both down together, up to tenfold."""
    random = np.random.default_rng(0)
    load = np.repeat(random.uniform(1, 10, 6), 5)[:, None]
    first, second = np.array([[0.08, 0.02]]) * load, np.array([[0.04, 0.01]]) * load
    second *= random.uniform(0.95, 1.05, second.shape)
    (timing,) = summarise([4], second[None], first[None])
    assert timing.speed.p50 == pytest.approx(2.0, rel=0.02)
    assert 1.9 < timing.speed.low <= timing.speed.high < 2.1
    assert timing.throughput.high > 2 * timing.throughput.low  # while the absolute numbers vary widely
    assert timing.total.p50 == pytest.approx(1000 * np.median(second.sum(1)))
    assert timing.throughput.p50 == pytest.approx(np.median(4 / second.sum(1)))


def test_the_peak_is_of_this_process_and_rises() -> None:
    before = peak_memory()
    assert 5 < before < 100_000
    block = np.ones(40_000_000)
    assert peak_memory() >= min(before + 100, 320) and block[0] == 1


def test_an_ensemble_costs_its_decoders_and_each_encoder_once(tmp_path: Path) -> None:
    model = tiny_model()
    other = {"name": "grid", "backbone": "test_efficientnet", "size": 96, "weights": "random"}
    folders = [save_model(tmp_path / name, model) for name in ("a", "b")]
    folders.append(save_model(tmp_path / "c", tiny_model(encoder=other)))
    make_image().save(tmp_path / "photo.png")
    contestants = [
        TimedModel(TimingJob("+".join(map(str, chosen)), "cpu", {}, [str(tmp_path / "photo.png")], [2]))
        for chosen in (folders[:1], folders[:2], folders)
    ]
    alone, twice, thrice = (contestant.about for contestant in contestants)
    assert (twice.encoder, twice.decoder) == (alone.encoder, 2 * alone.decoder)
    assert (thrice.encoder, thrice.decoder) == (2 * alone.encoder, 3 * alone.decoder)
    assert thrice.megabytes == pytest.approx(3 * alone.megabytes, abs=0.2)
    encoding, searching = contestants[2].time(2, 0)
    assert encoding > 0 and searching > 0


class Worker:
    """Stub for a model's process that returns ``answers`` in turn; an exception is raised."""

    def __init__(self, answers: list[object]) -> None:
        self.answers = answers

    def send(self, question: object) -> None:
        pass

    def recv(self) -> object:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_model_that_fails_is_left_out_and_the_others_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    about = About(1, 1, 1.0, {1: 1.0}, 1.0, None, "cpu", 1, 1, [])
    answers: dict[str, list[object]] = {
        "damaged": ["CheckpointError: it is damaged"],
        "dies": [about, (0.1, 0.1), EOFError()],
        "good": [about, *[(0.2, 0.0)] * 3],
        "slow": [about, *[(0.2, 0.2)] * 3],
    }

    @contextmanager
    def process(job: TimingJob) -> Iterator[Worker]:
        yield Worker(answers[job.model])

    monkeypatch.setattr(module, "_process", process)
    costs, errors = time_models({name: TimingJob(name, "cpu", {}, [], [1]) for name in answers}, rounds=3)
    assert {name: cost.timings[0].speed.p50 for name, cost in costs.items()} == {"good": 1.0, "slow": 0.5}
    assert str(errors["damaged"]) == "damaged: could not be timed: CheckpointError: it is damaged"
    assert "dies: could not be timed: its process died" in str(errors["dies"])
    assert {name: ModelCost.of(json.loads(json.dumps(asdict(cost)))) for name, cost in costs.items()} == costs
    answers["damaged"] = ["it is damaged"]
    assert time_models({"damaged": TimingJob("damaged", "cpu", {}, [], [1])}, rounds=2)[0] == {}
