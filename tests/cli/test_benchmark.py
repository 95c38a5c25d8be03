from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second tiny model, which does not attend."""
    import torch

    from captioner.checkpoint import save_model
    from captioner.model import CaptionModel, ModelConfig
    from captioner.text.vocabulary import Vocabulary

    config = ModelConfig(
        encoder={"name": "grid", "backbone": "test_efficientnet", "weights": "random", "size": 64},
        decoder={"name": "show_tell", "embedding": 8, "hidden": 8},
        search={"width": 1, "max_words": 5, "min_words": 2},  # type: ignore[arg-type]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        built = CaptionModel.build(config, Vocabulary(["a", "dog", "runs", "on", "grass"]))
    built.tuned_stages = built.encoder.stages
    return save_model(tmp_path_factory.mktemp("models") / "plain|one", built)


def test_the_whole_report(run: Run, model: Path, other: Path, dataset: Path, tmp_path: Path) -> None:
    (dataset.parent / "blue.jpg").write_bytes(b"broken")
    output = tmp_path / "out"
    result = run(
        *("benchmark", dataset, "--model", model, "--model", other, "-o", output, "--metrics", "BLEU,CIDEr"),
        *("--rounds", 2, "--resamples", 100, "--batch-size", 1, "--batch-size", 2, "--device", "cpu"),
    )
    assert result.code == 1
    assert f"error: {dataset.parent / 'blue.jpg'}: " in result.err
    assert sorted(file.name for file in output.iterdir()) == ["benchmark.json", "photos.html", "plot.png", "table.md"]

    record = json.loads((output / "benchmark.json").read_text())
    quality, cost = record["quality"], record["cost"]
    assert list(record["models"]) == ["tiny", "plain|one"] and quality["images"] == ["green.png", "red.jpg"]
    assert list(quality["groups"][0]["scores"]["tiny"]) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr"]
    assert list(quality["groups"][0]["differences"]) == ["plain|one"]
    for name, folder in (("tiny", model), ("plain|one", other)):
        from safetensors.numpy import load_file

        weights = {key: value for key, value in load_file(folder / "model.safetensors").items() if key.startswith("decoder.")}
        about = cost[name]["about"]
        assert about["decoder"] == sum(value.size for value in weights.values())
        assert about["memory"]["2"] >= about["memory"]["1"] >= about["before"] > 10
        assert [timing["batch"] for timing in cost[name]["timings"]] == [1, 2]
        for timing in cost[name]["timings"]:
            assert 0 < timing["total"]["p50"] <= timing["total"]["p95"]
            assert timing["encode"]["p50"] > 0 and timing["decode"]["p50"] > 0
    assert all(timing["speed"]["p50"] == 1 for timing in cost["tiny"]["timings"])

    table = (output / "table.md").read_text()
    assert table.strip() in result.out
    for block in table.split("\n\n"):
        if block.startswith("|"):  # every line of a table has the same number of cells
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1
    assert Image.open(output / "plot.png").size > (500, 300)
    page = (output / "photos.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    if quality["each"]["tiny"]["CIDEr"] != quality["each"]["plain|one"]["CIDEr"]:
        assert "where tiny looked" in page and "where plain|one looked" not in page


def test_features_stand_for_photos(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    from captioner.checkpoint import load_model
    from captioner.data.annotations import read_captions
    from captioner.data.features import build_store

    pictures = [(photo.image_id, photo.path) for photo in read_captions(dataset).split("dev").photos if photo.image_id != "red.jpg"]
    store = build_store(tmp_path / "features", load_model(model).encoder, pictures, workers=1).store.folder
    arguments = ("benchmark", dataset, "--model", model, "-o", tmp_path / "out", "--metrics", "BLEU", "--rounds", 0, "--resamples", 100)
    result = run(*arguments, "--features", store, "--photos", 0)
    assert result.code == 1 and "red.jpg: not in the feature store" in result.err
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert record["quality"]["images"] == ["blue.jpg", "green.png"] and record["cost"] == {}
    assert not (tmp_path / "out" / "plot.png").exists()


def test_a_model_that_cannot_be_timed_is_named(tmp_path: Path) -> None:
    from captioner.benchmark.cost import time_models
    from captioner.benchmark.worker import Job
    from captioner.errors import EvaluationError

    with pytest.raises(EvaluationError, match=r"nobody: could not be timed: CheckpointError: .*not a model folder"):
        time_models({"nobody": Job(str(tmp_path), "cpu", {}, [], [1])}, rounds=1)


def test_contestants_are_trained_alike(run: Run, model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    told = []

    def train(recipe: str, changes: list[str], *, output: Path, resume: bool, console: object) -> Path:
        told.append((recipe, changes, output.name, resume))
        return Path(shutil.copytree(model, output / "best"))

    monkeypatch.setattr("captioner.training.fit.run", train)
    recipes = ("flickr8k_show_tell", "flickr8k_show_attend_tell")
    arguments = [part for recipe in recipes for part in ("--train", recipe)]
    output = tmp_path / "out"
    result = run(
        *("benchmark", dataset, "-o", output, *arguments, "--set", "epochs=2", "--rounds", 0, "--resamples", 100, "--photos", 1),
        *("--metrics", "BLEU"),
    )
    assert result.code == 0, result.err
    assert told == [(recipe, [f'data.path="{dataset}"', "epochs=2"], recipe, False) for recipe in recipes]
    assert list(json.loads((output / "benchmark.json").read_text())["models"]) == list(recipes)


def test_settings_without_training_are_refused(run: Run, dataset: Path, tmp_path: Path) -> None:
    result = run("benchmark", dataset, "-o", tmp_path / "out", "--set", "epochs=2")
    assert result.code == 2 and "--train" in result.err


def test_the_same_model_twice_is_refused(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    result = run("benchmark", dataset, "-o", tmp_path / "out", "--model", model, "--model", model)
    assert result.code == 1 and "named twice" in result.err
