"""The forecast of a run from a few steps, against the run itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from captioner.errors import FeatureStoreError
from captioner.features import FeatureStore, StoreSpace
from captioner.files import bytes_in
from captioner.training.dry_run import dry_run
from captioner.training.fit import train as run
from captioner.training.forecast import evenly_spaced
from captioner.training.recipe import load_config


def test_the_forecast_is_that_of_the_run(tiny: Path, tmp_path: Path) -> None:
    changes = ["data.flips=true", "fine_tune.from_epoch=3", "fine_tune.stages=2"]
    config = load_config(tiny, changes, tmp_path / "run")
    before = set(tmp_path.iterdir())
    forecast = dry_run(config)
    assert set(tmp_path.iterdir()) == before, "it left something behind"
    assert forecast.data == {"training images": 24, "training captions": 48, "dev images": 8, "words": 14}
    assert (forecast.steps_per_epoch, forecast.epochs) == (6, 3)
    assert forecast.parameters["encoder, trained"] and forecast.store.left == forecast.store.bytes > 0
    assert all(seconds > 0 for seconds in forecast.seconds.values())

    run(tiny, changes, output=tmp_path / "run")
    arrays = sum(file.stat().st_size for file in (tmp_path / "run" / "features").glob("*.npy"))
    assert forecast.store.bytes == pytest.approx(arrays, rel=0.01)  # without the headers
    again = dry_run(config)
    assert again.store == StoreSpace(tmp_path / "run" / "features", exists=True, bytes=forecast.store.bytes)
    assert again.seconds["encoding"] == 0
    assert len(FeatureStore(tmp_path / "run" / "features")) == 32


def test_a_disk_that_is_too_small_is_named(tmp_path: Path) -> None:
    need = StoreSpace(tmp_path / "features", bytes=10**12, left=10**12, free=10**9)
    with pytest.raises(FeatureStoreError, match=r"features: the features take 1,000\.0 GB more .* 1\.0 GB left; free"):
        need.check()
    replace(need, left=10**8).check()


def test_items_are_evenly_spaced() -> None:
    assert evenly_spaced(range(100), 4) == (0, 25, 50, 75)
    assert evenly_spaced(range(3), 4) == (0, 1, 2)
    assert evenly_spaced(torch.arange(10).tolist(), 3) == (0, 3, 6)


def test_a_folders_size(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"123")
    assert bytes_in(tmp_path) == 3 and bytes_in(tmp_path / "absent") == 0
