from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from captioner.benchmark.listener import Listener
from captioner.benchmark.training import train
from captioner.errors import ConfigError

RECIPES = ("flickr8k_show_tell", "flickr8k_show_attend_tell")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    out: list[tuple[Any, ...]] = []

    def run(recipe: str, changes: list[str], *, output: Path, resume: bool, events: object) -> Path:
        out.append((recipe, changes, output, resume))
        if "self_critical" in recipe:
            raise ConfigError("start: there is no such model")
        return output / "best"

    monkeypatch.setattr("captioner.training.fit.train", run)
    return out


def test_contestants_are_trained_once_for_each_seed(calls: list[tuple[Any, ...]], tmp_path: Path) -> None:
    (tmp_path / RECIPES[1] / "seed-3").mkdir(parents=True)
    (tmp_path / RECIPES[1] / "seed-3" / "state.safetensors").touch()
    contestants = train(
        RECIPES, tmp_path, data=tmp_path / "data", restval=True, changes=["epochs=2"], seeds=[0, 3], device="cpu"
    )
    common = [f'data.path="{tmp_path / "data"}"', "data.restval=true", "device=cpu", "epochs=2"]
    assert calls == [
        (
            recipe,
            [*common, f"seed={seed}", f'data.features="{tmp_path / recipe / "features"}"'],
            tmp_path / recipe / f"seed-{seed}",
            (recipe, seed) == (RECIPES[1], 3),
        )
        for recipe in RECIPES
        for seed in (0, 3)
    ]
    assert [(one.name, one.recipe, one.seed) for one in contestants] == [
        (f"{recipe}, seed {seed}", recipe, seed) for recipe in RECIPES for seed in (0, 3)
    ]
    assert contestants[0].folder == tmp_path / RECIPES[0] / "seed-0" / "best"


def test_features_that_were_named_or_differ_by_seed_are_not_shared(
    calls: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    for change in ('data.features="store"', "model.encoder.weights=random"):
        train(RECIPES[:1], tmp_path, data=tmp_path, changes=[change], seeds=[1])
    assert [changes[-1] for _, changes, _, _ in calls] == ["seed=1", "seed=1"]


def test_a_recipe_that_cannot_be_trained_is_left_out(calls: list[tuple[Any, ...]], tmp_path: Path) -> None:
    failed: list[str] = []
    contestants = train(
        ["flickr8k_self_critical", RECIPES[0]], tmp_path, data=tmp_path, listener=Listener(failed=failed.append)
    )
    assert [one.name for one in contestants] == [RECIPES[0]] and contestants[0].seed is None
    assert failed == ["flickr8k_self_critical: could not be trained: start: there is no such model"]
    train(["no_such"], tmp_path, data=tmp_path, seeds=[0], listener=Listener(failed=failed.append))
    assert "no_such, seed 0: could not be trained: recipe 'no_such' does not exist" in failed[1]


def test_two_recipes_of_one_name_are_refused(calls: list[tuple[Any, ...]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two recipes are named 'mine'"):
        train(["a/mine.yaml", "b/mine.yaml"], tmp_path, data=tmp_path)
    assert calls == []
