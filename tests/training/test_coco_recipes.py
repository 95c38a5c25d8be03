"""Every recipe for COCO runs from end to end on real images, with smaller parts that ``--set`` chooses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captioner.training.fit import train as run
from captioner.training.recipe import load_config
from captioner.training.recipe_files import recipes

SMALL = {
    "show_tell": {"embedding": 32, "hidden": 32},
    "show_attend_tell": {"embedding": 32, "hidden": 32, "attention": 16, "values": 32},
    "top_down": {"embedding": 32, "hidden": 32, "attention": 16, "values": 32},
    "transformer": {"size": 32, "heads": 2, "feed_forward": 32, "blocks": 1},
}
FAST = ["epochs=1", "batch_size=50", "optimiser.learning_rate=0.003", "evaluation.search.width=1", "device=cpu"]


def changes_of(recipe: str, data: Path) -> list[str]:
    model = load_config(recipe).model
    grid = {"backbone": "test_efficientnet", "weights": "random", "size": 64}
    regions = {"detector": "small", "weights": "random", "size": 64, "regions": 10, "features": "trunk"}
    changes = {"encoder": grid if model.encoder["name"] == "grid" else regions}
    changes["decoder"] = SMALL[model.decoder["name"]]
    if model.refiner:
        changes["refiner"] = SMALL["transformer"]
    parts = [f"model.{part}.{key}={value}" for part, values in changes.items() for key, value in values.items()]
    return [f"data.path={data}", *FAST, *parts]


@pytest.fixture
def tokeniser() -> None:
    """Captions by people need the tokeniser in Java."""


@pytest.mark.slow
def test_every_recipe_runs(shared_data: Path, tmp_path: Path) -> None:
    data, names = shared_data / "coco" / "dataset_coco.json", [name for name in recipes() if name.startswith("coco_")]
    assert len(names) == 6
    for name in names:
        if name != "coco_self_critical":
            run(name, changes_of(name, data), output=tmp_path / name)
    changes = [f"data.path={data}", *FAST, f"start={tmp_path / 'coco_show_tell' / 'best'}", "objective.bleu=1"]
    run("coco_self_critical", changes, output=tmp_path / "second")
    for folder in tmp_path.iterdir():
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert any("loss" in record for record in records) and records[-1]["dev"]["CIDEr"] >= 0
