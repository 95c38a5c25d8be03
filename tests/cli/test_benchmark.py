from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run, tiny_model


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second tiny model, which does not attend."""
    words = ["a", "dog", "runs", "on", "grass"]
    return tiny_model(tmp_path_factory.mktemp("models") / "plain|one", words=words, seed=1, width=1, max_words=5)


FAST = "--metrics BLEU,CIDEr --device cpu"
UNTIMED = f"{FAST} --rounds 0 --photos 0"


def test_the_whole_report(
    run: Run, model: Path, other: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dataset.parent / "blue.jpg").write_bytes(b"broken")
    output = tmp_path / "out"
    line = f"benchmark {model} '{other}' --data {dataset} -o {output} {FAST} --latex --photos 1 --rounds 2"
    line = f"{line} --batch-size 1 --batch-size 2"
    result = run(line)
    assert result.code == 1
    assert result.err.count(f"error: {dataset.parent / 'blue.jpg'}: ") == 1
    written = "benchmark.json cache photos.html plot.png table.md table.tex"
    assert sorted(path.name for path in output.iterdir()) == written.split()

    record = json.loads((output / "benchmark.json").read_text())
    quality, cost = record["quality"], record["cost"]
    assert list(record["models"]) == ["tiny", "plain|one"] and quality["images"] == ["green.png", "red.jpg"]
    assert list(quality["groups"][0]["scores"]["tiny"]) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr"]
    assert list(quality["groups"][0]["differences"]) == ["plain|one"]
    assert quality["diversity"]["tiny"]["vocabulary"] >= 1 and quality["people"]["novel"] == 1.0
    for name, folder in (("tiny", model), ("plain|one", other)):
        from safetensors.numpy import load_file

        weights = load_file(folder / "model.safetensors").items()
        about = cost[name]["about"]
        assert about["decoder"] == sum(value.size for key, value in weights if key.startswith("decoder."))
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
    assert r"plain\textbar{}one & " in (output / "table.tex").read_text()
    page = (output / "photos.html").read_text()
    assert "http://" not in page and "https://" not in page
    if quality["each"]["tiny"]["CIDEr"] != quality["each"]["plain|one"]["CIDEr"]:
        assert "Where tiny looked" in page and "Where plain|one looked" not in page

    # A second call measures nothing, and reports that, except with --fresh.
    def measure(*_: object, **__: object) -> None:
        raise RuntimeError("measured again")

    monkeypatch.setattr("captioner.benchmark.benchmark.time_models", measure)
    again = run(line)
    assert again.code == 1 and json.loads((output / "benchmark.json").read_text()) == record
    assert "tiny: 2 captions are used again" in again.err and "timings are used again" in again.err
    assert "unexpected RuntimeError: measured again" in run(f"{line} --fresh").err


def test_features_replace_images(
    run: Run, model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The load is in the record, and would change between two runs.
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 0.5, 0.5))
    from captioner.data.annotations import read_captions
    from captioner.features import build_store
    from captioner.model.checkpoint import load_model

    images = {each.image_id: each.path for each in read_captions(dataset).split("dev").images}
    del images["red.jpg"]
    encoder = load_model(model).encoder
    store = build_store(tmp_path / "features", encoder, list(images.items()), workers=1).store.folder
    line = f"benchmark {model} --data {dataset} -o {tmp_path}/out {UNTIMED} --features {store}"
    result = run(line)
    assert result.code == 1 and "red.jpg: not in the feature store" in result.err
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert record["quality"]["images"] == ["blue.jpg", "green.png"] and record["cost"] == {}
    assert not (tmp_path / "out" / "plot.png").exists()
    assert "2 captions are used again" in run(line).err
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text()) == record


def test_bad_models_are_left_out_and_the_next_is_the_baseline(
    run: Run, model: Path, other: Path, dataset: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(model, tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"damaged")
    options = f"--data {dataset} -o {tmp_path}/out {UNTIMED}"
    result = run(f"benchmark no_such_model {damaged} '{other}' {model} {options}")
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert result.code == 1 and len(errors) == 2
    assert "'no_such_model' does not exist" in errors[0]
    assert f"{damaged / 'model.safetensors'}: has 7 bytes" in errors[1]
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert list(record["models"]) == ["plain|one", "tiny"]
    assert list(record["quality"]["groups"][0]["differences"]) == ["tiny"]
    none = run(f"benchmark {damaged} {options}")
    assert none.code == 1 and none.err.splitlines()[-1].startswith("error: no model is left to compare")


def test_the_settings_of_the_search_and_malformed_records(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    with open(dataset, "a", encoding="utf-8") as file:
        file.write('{"captions": ["a dog"], "split": "val"}\n')
    line = f"benchmark {model} --data {dataset} -o {tmp_path}/out {UNTIMED}"
    refused = run(f"{line} --strict")
    assert (refused.code, refused.out) == (1, "") and refused.err.startswith(f"error: {dataset}:5: ")
    assert not (tmp_path / "out").exists()
    result = run(f"{line} --min-words 6 --max-words 6 --block-ngram 1")
    left_out = f"captions: 1 malformed record was left out, the first: {dataset}:5: "
    assert result.code == 0 and result.err.startswith(left_out)
    search = json.loads((tmp_path / "out" / "benchmark.json").read_text())["search"]
    assert search == {"min_words": 6, "max_words": 6, "block_ngram": 1}
    (kept,) = (tmp_path / "out" / "cache").glob("captions-*.json")
    for entry in json.loads(kept.read_text())["content"].values():
        words = entry["caption"].lower().rstrip(".").split()
        assert len(words) == len(set(words)) == 6


def test_a_model_that_cannot_be_timed_is_named(tmp_path: Path) -> None:
    from captioner.benchmark.cost import time_models
    from captioner.benchmark.worker import TimingJob

    costs, errors = time_models({"nobody": TimingJob(str(tmp_path), "cpu", {}, [], [1])}, rounds=1)
    assert costs == {}
    error = str(errors["nobody"])
    assert error.startswith("nobody: could not be timed: CheckpointError: ") and "not a model folder" in error


def test_means_over_seeds_of_trained_contestants(
    run: Run, model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def train(recipe: str, changes: list[str], *, output: Path, resume: bool, events: object) -> Path:
        calls.append((recipe, output.relative_to(tmp_path / "out"), "epochs=2" in changes, resume))
        return Path(shutil.copytree(model, output / "best"))

    monkeypatch.setattr("captioner.training.fit.train", train)
    recipes = ("flickr8k_show_tell", "flickr8k_show_attend_tell")
    trained = " ".join(f"--train {recipe}" for recipe in recipes)
    options = f"--set epochs=2 --seeds '0, 1' --latex {FAST} --rounds 0 --photos 1"
    result = run(f"benchmark --data {dataset} -o {tmp_path}/out {trained} {options}")
    assert result.code == 0, result.err
    assert calls == [
        (recipe, Path("runs", recipe, f"seed-{seed}"), True, False) for recipe in recipes for seed in (0, 1)
    ]
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert list(record["models"]) == [f"{recipe}, seed {seed}" for recipe in recipes for seed in (0, 1)]
    assert list(record["quality"]["seeds"]["means"]["scores"]) == list(recipes)
    assert record["quality"]["seeds"]["deviations"][recipes[0]]["CIDEr"] == 0
    assert "## Quality over seeds" in result.out
    assert "tab:captioner-seeds" in (tmp_path / "out" / "table.tex").read_text()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("--set epochs=2", "--train"),
        ("--seeds 0", "--train"),
        ("--train flickr8k_show_tell --seeds 0,1,0", "--seeds"),
        ("--train flickr8k_show_tell --seeds one", "--seeds"),
        ("--train flickr8k_show_tell --seeds 0,1 --set seed=3", "--seeds"),
    ],
)
def test_wrong_usage_is_refused(run: Run, dataset: Path, tmp_path: Path, arguments: str, option: str) -> None:
    result = run(f"benchmark --data {dataset} -o {tmp_path}/out {arguments}")
    assert result.code == 2 and option in result.err and not (tmp_path / "out").exists()


def test_a_split_without_images_is_an_error(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    result = run("benchmark", model, "--data", dataset, "-o", tmp_path / "out", "--split", "test")
    assert result.code == 1 and 'no image is in the split "test"' in result.err


def test_data_without_splits_is_used_whole(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    names = ("red.jpg", "green.png", "blue.jpg")
    (dataset.parent / "captions.csv").write_text("image,caption\n" + "".join(f"{name},a dog runs\n" for name in names))
    result = run(f"benchmark {model} --data {dataset.parent}/captions.csv -o {tmp_path}/out {UNTIMED}")
    assert result.code == 0 and "3 images." in result.out and "no train split" in result.out


def test_the_same_model_twice_is_refused(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    result = run("benchmark", model, model, "--data", dataset, "-o", tmp_path / "out")
    assert result.code == 1 and "named twice" in result.err


@pytest.mark.parametrize("repeated", [False, True])
def test_an_ensemble_competes_with_its_members(
    run: Run, model: Path, partner: Path, dataset: Path, tmp_path: Path, repeated: bool
) -> None:
    together = f"--model {model} --model {partner}" if repeated else f"{model}+{partner}"
    line = f"benchmark {model} {partner} {together} --data {dataset} -o {tmp_path}/out {FAST} --rounds 0"
    result = run(f"{line} --photos 1")
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    names = ["tiny", "partner", "tiny+partner"]
    assert record["models"] == dict(zip(names, (str(model), str(partner), f"{model}+{partner}"), strict=True))
    quality = record["quality"]["groups"][0]
    assert list(quality["scores"]) == names and list(quality["differences"]) == names[1:]
    assert "| tiny+partner |" in (tmp_path / "out" / "table.md").read_text()
    if len({tuple(each["CIDEr"]) for each in record["quality"]["each"].values()}) > 1:
        assert "Where tiny+partner looked" in (tmp_path / "out" / "photos.html").read_text()
    assert "tiny+partner: 3 captions are used again" in run(f"{line} --photos 0").err


def test_only_an_ensemble_is_compared_if_only_that_is_named(
    run: Run, model: Path, partner: Path, dataset: Path, tmp_path: Path
) -> None:
    assert run(f"benchmark -m {model} -m {partner} --data {dataset} -o {tmp_path}/out {UNTIMED}").code == 0
    assert list(json.loads((tmp_path / "out" / "benchmark.json").read_text())["models"]) == ["tiny+partner"]


@pytest.mark.slow
def test_an_ensemble_is_timed_beside_its_members(
    run: Run, model: Path, partner: Path, dataset: Path, tmp_path: Path
) -> None:
    options = f"--data {dataset} -o {tmp_path}/out {FAST} --photos 0 --rounds 2 --batch-size 2"
    line = f"benchmark {model} {partner} {model}+{partner} {options}"
    assert run(line).code == 0
    cost = json.loads((tmp_path / "out" / "benchmark.json").read_text())["cost"]
    assert list(cost) == ["tiny", "partner", "tiny+partner"]
    assert all(each["timings"][0]["total"]["p50"] > 0 for each in cost.values())
    assert "timings are used again" in run(line).err
