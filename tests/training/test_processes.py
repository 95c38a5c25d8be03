"""Two processes under torchrun train as one does with the same batches, and only one of them writes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from captioner.features import FeatureStore
from captioner.training.fit import train as run
from captioner.training.state import STATE
from tests.torchrun import assert_near, finish, start, train

FIXED = ["model.decoder.dropout=0", "data.flips=false", "epochs=2"]


@pytest.mark.parametrize(
    "changes",
    [
        # Batches of 5 and 4 images, from a store.
        pytest.param(["batch_size=5"], id="store", marks=pytest.mark.slow),
        # Of 23 images and of one, from images, in groups: one process has nothing of the second batch.
        pytest.param(
            ["batch_size=23", "accumulate=2", "fine_tune.from_epoch=1"], id="pictures", marks=pytest.mark.slow
        ),
    ],
)
def test_two_processes_train_as_one(tiny: Path, tmp_path: Path, changes: list[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    out, err = finish(start(2, *train(tiny, FIXED + changes, two)))
    assert out.split() == [str(two / "best")] and err.count("training images") == 1 and "2 processes" in err
    run(tiny, FIXED + changes, output=one)
    assert_near(one, two)
    if (one / "features").exists():
        assert FeatureStore(one / "features").index == FeatureStore(two / "features").index


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_another_number_of_processes_resumes_it(
    tiny: Path, tmp_path: Path
) -> None:
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
def test_two_processes_encode_one_store(tiny: Path, images: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ["features", images, "--encoder", "efficientnet_lite0", "--set", "size=64", "--flips"]
    out, _ = finish(start(2, *arguments, "-o", store))
    assert out.count("32 images") == 1 and "64 encoded now" in out
    alone = tmp_path / "alone"
    finish(start(1, *arguments, "-o", alone))
    ids = FeatureStore(alone).ids
    assert ids == FeatureStore(store).ids
    assert torch.equal(FeatureStore(store).vectors(ids), FeatureStore(alone).vectors(ids))


@pytest.mark.slow
def test_an_error_is_printed_once_and_ends_all_processes(tiny: Path, tmp_path: Path) -> None:
    process = start(2, *train(tiny, ["data.path=nowhere.json"], tmp_path / "run"))
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and err.count("error: nowhere.json") == 1
