"""Two processes under torchrun train as one does with the same batches, and only one of them writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from captioner.features import FeatureStore
from captioner.training.fit import run
from captioner.training.loop import STATE

FIXED = ["model.decoder.dropout=0", "data.flips=false", "epochs=2"]


def start(count: int, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start ``captioner`` in some processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.Popen(
        [*torchrun, "-m", "captioner", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end of processes, and return what they wrote."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out, err


def train(recipe: Path, changes: list[str], output: Path, *more: str) -> list[str | Path]:
    return ["train", recipe, *(part for change in changes for part in ("--set", change)), "--output", output, *more]


def losses(output: Path) -> list[float]:
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == list(
        range(1, 1 + sum("loss" in record for record in records))
    )
    return [record["loss"] for record in records if "loss" in record]


def assert_near(one: Path, two: Path) -> None:
    """Compare the losses and final weights of two runs: these by their norms, as Adam turns a gradient that is zero but
    for rounding into a step of either sign.
    """
    torch.testing.assert_close(torch.tensor(losses(one)), torch.tensor(losses(two)), rtol=1e-4, atol=1e-5)
    states = [load_file(output / STATE) for output in (one, two)]
    for name, tensor in states[0].items():
        if not name.startswith(("rng.", "optimiser.")) and tensor.is_floating_point():
            difference = (states[1][name] - tensor).norm()
            assert difference < 1e-3 * tensor.norm() + 1e-5, f"{name}: {difference} of {tensor.norm()}"


@pytest.mark.parametrize(
    "changes",
    [
        # Batches of 5 and 4 photos, from a store.
        pytest.param(["batch_size=5"], id="store"),
        # Of 23 photos and of one, from pictures, in groups: one process has nothing of the second batch.
        pytest.param(
            ["batch_size=23", "accumulate=2", "fine_tune.from_epoch=1"], id="pictures", marks=pytest.mark.slow
        ),
    ],
)
def test_two_processes_train_as_one(tiny: Path, tmp_path: Path, changes: list[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    out, err = finish(start(2, *train(tiny, FIXED + changes, two)))
    assert out.split() == [str(two / "best")] and err.count("training photos") == 1 and "2 processes" in err
    run(tiny, FIXED + changes, output=one)
    assert_near(one, two)
    if (one / "features").exists():
        assert FeatureStore(one / "features").index == FeatureStore(two / "features").index


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_which_another_number_resumes(tiny: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    changes = [*FIXED, "epochs=3", "batch_size=5", "save_minutes=0.0001"]
    process = start(2, *train(tiny, changes, two))
    while not (two / STATE).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "SIGKILL" in err
    assert not (two / "last").exists(), "the run ended before it could be killed"
    run(tiny, changes, output=two, resume=True)
    run(tiny, changes, output=one)
    assert_near(one, two)


@pytest.mark.slow
def test_two_processes_encode_one_store(tiny: Path, photos: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ["features", photos, "--encoder", "efficientnet_lite0", "--size", "64", "--flips"]
    out, _ = finish(start(2, *arguments, "-o", store))
    assert out.count("32 pictures") == 1 and "64 encoded now" in out
    alone = tmp_path / "alone"
    finish(start(1, *arguments, "-o", alone))
    ids = FeatureStore(alone).ids
    assert ids == FeatureStore(store).ids
    assert torch.equal(FeatureStore(store).vectors(ids), FeatureStore(alone).vectors(ids))


@pytest.mark.slow
def test_an_error_is_told_once_and_ends_all(tiny: Path, tmp_path: Path) -> None:
    process = start(2, *train(tiny, ["data.path=nowhere.json"], tmp_path / "run"))
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and err.count("error: nowhere.json") == 1
