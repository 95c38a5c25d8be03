"""Tiny models of every family over a grid, and images for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captioner.decoders import DECODERS
from captioner.encoders.grid import GridConfig, GridEncoder, Trunk
from captioner.model import CaptionModel, ModelConfig
from captioner.text.vocabulary import Vocabulary
from tests.builders import SMALL

BLOCKS = {"blocks": 1, "size": 8, "heads": 2, "feed_forward": 12}
#: every family, and variants of families
VARIANTS: dict[str, dict[str, Any]] = {
    name: {"decoder": {"name": name}} for name in DECODERS if name != "transformer_xl"
} | {
    "refined, hard": {
        "decoder": {"name": "show_attend_tell", "kind": "hard", "geometry": True, "gate": "vector"},
        "refiner": {"name": "transformer", **BLOCKS},
    },
    "conformer, relative": {
        "decoder": {"name": "transformer_xl", "tie_output": False},
        "refiner": {"name": "transformer", "relative": True, "convolution": 3, "half_steps": True, **BLOCKS},
    },
    "learned positions": {
        "decoder": {"name": "transformer", "positions": "learned", "max_words": 12, "norm": "post", "tie_output": False}
    },
}
WORDS = ("a", "dog", "cat", "on", "the", "grass", "runs", "two")


def tiny(variant: str, **search: Any) -> CaptionModel:
    """Build a model whose captions differ from image to image."""
    parts = VARIANTS[variant]
    fields = DECODERS[parts["decoder"]["name"]].Config.model_fields
    small = {key: size for key, size in SMALL.items() if key in fields}
    grid = {"backbone": "test_efficientnet", "size": 64, "weights": "random"}
    config = ModelConfig(
        encoder={"name": "grid", **grid},
        decoder=small | parts["decoder"],
        refiner=parts.get("refiner"),
        search={"min_words": 2, "max_words": 7, **search},  # type: ignore[arg-type]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        trunk = nn.Sequential(nn.Conv2d(3, 8, 32, 32), nn.ReLU())  # a backbone takes seconds to trace
        encoder = GridEncoder(GridConfig(**grid), Trunk(trunk, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))  # type: ignore[arg-type]
        model = CaptionModel.build(config, Vocabulary(WORDS), encoder)
        for weight in (*model.refiner.parameters(), *model.decoder.parameters()):
            # Hard attention needs scores that no rounding makes equal, as those of saturated units are.
            nn.init.normal_(weight, std=1.2 if parts["decoder"].get("kind") == "hard" else 1.5)
    return model.eval()


def in_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run models in torch in the precision of their graphs."""
    for module in ("encoders.encoder", "engines.model"):
        monkeypatch.setattr(f"captioner.{module}.fast_dtype", lambda device: torch.float32)


def write_images(folder: Path, count: int = 5) -> list[Path]:
    """Write images that differ."""
    random = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(random.integers(0, 60 + 39 * i, (40, 60 + i, 3), dtype=np.uint8)).save(path)
    return paths
