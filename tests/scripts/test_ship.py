"""What ships is chosen by docs/protocol.md, and gets its scores from scripts/readme.py alone."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from captioner.model.checkpoint import load_model, save_model
from captioner.store import read_config
from tests.model.test_checkpoint import tiny_model
from tests.scripts.test_cards import load


@pytest.fixture
def ship(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load(repository, "ship")
    monkeypatch.setattr(module, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr(module.cards, "card", lambda folder: f"# {folder.name}\n")
    return module


def run_of(folder: Path, seed: int, **about: object) -> Path:
    """Write a run with a best and a last model."""
    for name in ("best", "last"):
        save_model(folder / name, tiny_model(), about={"seed": seed, "checkpoint": name, "dev_cider": 0.9, **about})
    return folder


@pytest.mark.parametrize(("narrow", "wide", "width"), [(0.5, 0.5029, 3), (0.5, 0.503, 5), (0.5, 0.4, 3), (0.5, 0.6, 5)])
def test_a_wider_beam_must_gain_three_tenths(ship: ModuleType, narrow: float, wide: float, width: int) -> None:
    assert ship.chosen_width({3: narrow, 5: wide}) == width


def test_the_widest_beam_must_gain_over_the_one_that_is_taken(ship: ModuleType) -> None:
    assert ship.chosen_width({3: 0.5, 5: 0.502, 10: 0.503}) == 10
    assert ship.chosen_width({3: 0.5, 5: 0.51, 10: 0.512}) == 5


def test_the_last_epoch_of_the_better_run_ships(
    ship: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_folder = {"one": {3: 0.5, 5: 0.52}, "two": {3: 0.519, 5: 0.51}, "three": {3: 0.51, 5: 0.51}}
    monkeypatch.setattr(ship, "selection_score", lambda source, model, width, data: by_folder[name(source)][width])

    def name(source: Path) -> str:
        return source.parent.name if source.name == "last" else source.name

    runs = [run_of(tmp_path / "one", 1), run_of(tmp_path / "two", 2)]
    model = save_model(tmp_path / "three", tiny_model(), about={"seed": 3})
    folder = ship.captioner([*runs, model], "show_tell", tmp_path)
    about = read_config(folder)["about"]
    assert (folder, about["seed"], about["checkpoint"]) == (tmp_path / "assets" / "show_tell", 1, "last")
    assert (about["bits"], about["candidates"]) == (8, {"models": 3, "beams": [3, 5]})
    search = load_model(folder).config.search
    assert (search.width, search.length_normalisation) == (5, 0.7)
    assert (folder / "README.md").read_text() == "# show_tell\n"


def test_a_new_model_has_no_scores(ship: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a model folder that is shipped again are of other weights."""
    monkeypatch.setattr(ship, "selection_score", lambda source, model, width, data: 0.5)
    run = run_of(tmp_path / "run", 0, scores={"flickr8k": {}}, grounding={"words": 1})
    about = read_config(ship.captioner([run], "transformer", tmp_path))["about"]
    assert not {"scores", "grounding"} & set(about) and about["encoder_bits"] == 8


def test_the_selection_score_is_the_mean_over_the_dev_sets(
    ship: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Found:
        def __init__(self, cider: float) -> None:
            self.scores = {"CIDEr": cider}

    class Data:
        def __init__(self, path: Path) -> None:
            self.path = path

        def split(self, name: str) -> tuple[str, str]:
            return self.path.relative_to(tmp_path).as_posix(), name

    values = {("flickr8k", "dev"): 0.6, ("coco/dataset_coco.json", "val"): 0.9}
    monkeypatch.setattr(ship, "read_captions", Data)
    monkeypatch.setattr(ship, "evaluate", lambda captioner, data, metrics: Found(values[data]))
    assert ship.selection_score(tmp_path / "run", tiny_model(), 3, tmp_path) == pytest.approx(0.75)
    assert "beam 3: CIDEr 75.0 (Flickr8k 60.0, COCO 90.0)" in capsys.readouterr().out
