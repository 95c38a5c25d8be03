"""The initial model of a run has the same encoder when it is read from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from captioner.data.transform import Transform
from captioner.encoders import ENCODERS, Encoder
from captioner.encoders.encoder import EncoderConfig
from captioner.memory import Memory
from captioner.model.checkpoint import load_model, save_model
from captioner.text.vocabulary import Vocabulary
from captioner.training.initial_model import build_model
from captioner.training.recipe import load_config


class Drawn(Encoder):
    """An encoder from outside the package, whose weights are drawn again whenever it is built."""

    Config = EncoderConfig
    grid, features = (1, 1), 4

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.transform = Transform(size=8, mean=(0, 0, 0), std=(1, 1, 1))
        self.layer = torch.nn.Linear(3, self.features)

    def forward(self, pixels: Tensor) -> Memory:
        return Memory.of_grid(self.layer(self.transform.normalise(pixels).mean((2, 3))).unsqueeze(1), self.grid)


class Constant(Drawn):
    """The same with constant weights, like installed ones."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        for weights in self.parameters():
            torch.nn.init.ones_(weights)


@pytest.mark.parametrize(("encoder", "saved"), [("grid", True), ("drawn", True), ("constant", False)])
def test_random_weights_are_saved_with_the_model(
    tiny: Path, tmp_path: Path, encoder: str, saved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENCODERS, "_entries", {**ENCODERS._entries, "drawn": Drawn, "constant": Constant})
    changes = [] if encoder == "grid" else [f"model.encoder={{name: {encoder}}}"]
    model = build_model(load_config(tiny, changes), lambda: Vocabulary(["a", "picture"]))
    assert model.tuned_stages == (model.encoder.stages if saved else 0)
    again = load_model(save_model(tmp_path / "model", model))
    assert again.encoder.fingerprint() == model.encoder.fingerprint()
