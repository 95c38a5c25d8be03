"""The saved state of a run: complete and of this run, or refused with its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from captioner.errors import CheckpointError
from captioner.training.resume import differences
from captioner.training.state import RunProgress, load_state, read_settings, save_state


class Training:
    """A model of two layers and the state of its training."""

    def __init__(self, width: int = 3) -> None:
        self.model = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1))
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.progress = RunProgress(epoch=1, batch=2, step=5, best=0.5)

    def step(self) -> float:
        loss = (self.model(torch.rand(4, 2)) - 1).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def save(self, path: Path) -> None:
        save_state(path, self.progress, {"model": self.model}, self.optimiser, json.dumps({"seed": 0}))

    def load(self, path: Path) -> RunProgress:
        read_settings(path)
        return load_state(path, {"model": self.model}, self.optimiser)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    training = Training()
    training.step()
    training.save(tmp_path / "state.safetensors")
    return tmp_path / "state.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object], *, checksum: bool) -> None:
    """Change the tensors and the metadata of a state; without a checksum it is one of an older version."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    change(tensors, metadata)
    if not checksum:
        metadata.pop("checksum", None)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)


def test_a_state_restores_all(saved: Path) -> None:
    one, other = Training(), Training()
    assert one.load(saved) == other.load(saved) == RunProgress(epoch=1, batch=2, step=5, best=0.5)
    one.load(saved)
    first = [one.step() for _ in range(3)]
    other.load(saved)
    assert [other.step() for _ in range(3)] == first
    rewrite(saved, lambda tensors, metadata: None, checksum=False)
    assert one.load(saved).step == 5, "a state of an older version has no checksum"


def test_every_changed_byte_of_a_state_is_found(saved: Path) -> None:
    """That a byte of the header changes nothing is possible: a space, or the order of names."""
    whole, random = saved.read_bytes(), np.random.default_rng(0)
    size = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(0, 8), *random.integers(8, size, 60), *random.integers(size, len(whole), 40), len(whole) - 1]
    training = Training()
    for place in places:
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ int(random.integers(1, 256))]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"state\.safetensors: "):
            training.load(saved)
    for length in (0, 4, 8, 100, size, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"state\.safetensors: damaged .*; start again in another folder"):
            training.load(saved)
    saved.write_bytes(whole)
    training.load(saved)


def progress(**changes: Any) -> Callable[[dict[str, Tensor], dict[str, str]], object]:
    def change(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        metadata["progress"] = json.dumps({**json.loads(metadata["progress"]), **changes})

    return change


MUTANTS: dict[str, Callable[[dict[str, Tensor], dict[str, str]], object]] = {
    "shape": lambda tensors, _: tensors.update({"model.0.bias": torch.zeros(1)}),
    "type": lambda tensors, _: tensors.update({"model.0.bias": torch.zeros(3, dtype=torch.int32)}),
    "missing": lambda tensors, _: tensors.pop("model.1.weight"),
    "another": lambda tensors, _: tensors.update({"model.2.weight": torch.zeros(1)}),
    "moment": lambda tensors, _: tensors.update({"optimiser.0.exp_avg": torch.zeros(1)}),
    "no moment": lambda tensors, _: tensors.pop("optimiser.0.exp_avg"),
    "steps": lambda tensors, _: tensors.update({"optimiser.1.step": torch.zeros(7)}),
    "generator": lambda tensors, _: tensors.update({"rng.cpu": torch.zeros(3, dtype=torch.uint8)}),
    "generator's type": lambda tensors, _: tensors.update({"rng.cpu": torch.zeros(5056)}),
    "words": progress(epoch="many"),
    "negative": progress(step=-1),
    "null": progress(finished=None),
    "list": lambda _, metadata: metadata.update(progress="[]"),
    "deep": lambda _, metadata: metadata.update(progress="[" * 100_000),
    "deep settings": lambda _, metadata: metadata.update(settings="[" * 100_000),
    "settings": lambda _, metadata: metadata.update(settings="null"),
    "no settings": lambda _, metadata: metadata.pop("settings"),
    "no progress": lambda _, metadata: metadata.pop("progress"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_state_of_another_kind_is_refused_before_anything_is_changed(saved: Path, name: str) -> None:
    rewrite(saved, MUTANTS[name], checksum=False)
    training = Training()
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"state\.safetensors: ") as raised:
        training.load(saved)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    if not name.startswith("generator"):
        assert all(torch.equal(tensor, before[name]) for name, tensor in training.model.state_dict().items())
        assert not training.optimiser.state


def test_a_state_of_another_model_names_what_differs(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.0\.weight is float32 \[3, 2\] in it and float32 \[4, 2\] here"):
        Training(width=4).load(saved)


def test_settings_that_differ_are_named_by_dots() -> None:
    before = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "gone": True, "same": {"x": 1}}
    now = {"a": 1, "b": {"c": [1, 3], "d": 5}, "new": "x", "same": {"x": 1}}
    assert differences(before, now) == {
        "b.c": ([1, 2], [1, 3]),
        "b.d": ({"e": None}, 5),
        "gone": (True, None),
        "new": (None, "x"),
    }
