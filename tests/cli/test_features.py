from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner import model as models
from captioner.encoders import Encoder

BUILD = "--encoder test_efficientnet --set size=64 --batch-size 2 --workers 1 --device cpu"


@pytest.fixture(autouse=True)
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build backbones without a download: the same random weights every time."""
    build = models.build_encoder

    def without_download(part: dict[str, object]) -> Encoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build({**part, "weights": "random"})

    for module in (models, models.caption_model):
        monkeypatch.setattr(module, "build_encoder", without_download)


def test_build_and_again(run, dataset: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    line = f"features {dataset} -o {store} --split dev {BUILD} --flips"
    first = run(line)
    assert (first.code, first.after) == (0, "")
    assert first.out.startswith(f"{store}: 3 images, also mirrored, 4 regions or cells of 256 features, ")
    assert "images/s" in first.out
    shard = store / "00000.npy"
    assert np.load(shard).shape == (3, 4, 256)
    before = shard.stat().st_mtime_ns
    again = run(line)
    assert again.code == 0
    assert "all were encoded already" in again.out
    assert shard.stat().st_mtime_ns == before


def test_a_models_encoder_without_its_last_stages(run, dataset: Path, model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert run(f"features {dataset} -o {store} --split dev --model {model} --cut 1 --device cpu").code == 0
    captions, scores = tmp_path / "captions.json", ("--metrics", "BLEU", "--device", "cpu")
    assert run("evaluate", model, dataset, "--features", store, *scores, "--output-captions", captions).code == 0
    from_store = json.loads(captions.read_text())
    assert run("evaluate", model, dataset, *scores, "--output-captions", captions).code == 0
    assert from_store == json.loads(captions.read_text())


def test_resumes_after_an_interruption(run, dataset: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    line = f"features {dataset} -o {store} --split val {BUILD}"
    run(line)
    whole = np.load(store / "00000.npy").copy()
    for name in ("index.json", "00000.json", "00000.npy"):
        (store / name).unlink()
    assert "3 encoded now" in run(line).out
    np.testing.assert_array_equal(np.load(store / "00000.npy"), whole)


def test_another_encoder_is_refused(run, dataset: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    line = f"features {dataset} -o {store} --split val {BUILD}"
    run(line)
    result = run(f"{line} --set fit=crop")
    assert (result.code, result.out) == (1, "")
    assert f"error: {store}: was begun with another encoder" in result.err
    assert json.loads((store / "plan.json").read_text())["transform"]["fit"] == "squash"


def test_the_store_is_known_by_the_weights_before_rounding(
    run, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.machine.backend.fast_dtype", lambda device: torch.bfloat16)
    run(f"features {dataset} -o {tmp_path}/store --split val {BUILD}")
    encoder = models.build_encoder({"name": "grid", "backbone": "test_efficientnet", "size": 64})
    assert json.loads((tmp_path / "store" / "index.json").read_text())["fingerprint"] == encoder.fingerprint()


def test_an_unreadable_image_is_left_out_and_reported(run, dataset: Path, tmp_path: Path) -> None:
    result = run(f"features {dataset} -o {tmp_path}/store {BUILD}")
    assert result.code == 1
    assert result.after.startswith(f"error: {dataset.parent / 'gone.jpg'}: ")
    assert ": 3 images," in result.out


def test_several_data_sets_are_merged(run, dataset: Path, tmp_path: Path) -> None:
    other = dataset.with_name("others.jsonl")
    other.write_text(json.dumps({"image": "red.jpg", "caption": "a dog", "split": "val"}) + "\n")
    run(f"features {dataset} {other} -o {tmp_path}/store --split val {BUILD}")
    ids = json.loads((tmp_path / "store" / "index.json").read_text())["ids"]
    assert sorted(ids) == ["blue.jpg", "captions/red.jpg", "green.png", "others/red.jpg"]


def test_a_wrong_setting(run, dataset: Path, tmp_path: Path) -> None:
    result = run(f"features {dataset} -o {tmp_path}/store {BUILD} --set fit=stretch")
    assert result.code == 1
    assert "stretch" in result.err and "squash" in result.err


def test_regions(run, dataset: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    settings = "--set regions=12 --set features=head --set size=64"
    built = run(f"features {dataset} -o {store} --split val --encoder regions {settings} --device cpu --workers 1")
    assert (built.code, built.after) == (0, "")
    assert ": 3 images, 12 regions or cells of 512 features, " in built.out
    vectors, regions = np.load(store / "00000.npy"), np.load(store / "00000-regions.npy")
    masked = regions[..., 4] < 0
    assert vectors.shape == (3, 12, 512) and regions.shape == (3, 12, 6)
    assert (masked.sum(1) <= 2).all() and (vectors[masked] == 0).all()  # ten regions at least
    encoder = json.loads((store / "index.json").read_text())["encoder"]
    assert (encoder["regions"], encoder["features"], encoder["size"]) == (12, "head", 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--encoder regions --set region=12", "there is no setting 'region'. Did you mean 'regions'?"),
        ("--encoder regions --set fit=crop", "there is no setting 'fit'"),
        ("--model show_tell --set size=64", "a model's encoder cannot be changed"),
        ("--set backbone", "write it as key=value"),
    ],
)
def test_invalid_settings_are_refused(run, dataset: Path, tmp_path: Path, arguments: str, message: str) -> None:
    result = run(f"features {dataset} -o {tmp_path}/store {arguments}")
    assert result.code != 0 and message in " ".join(result.err.split())
    assert not (tmp_path / "store").exists()


def test_settings_of_a_backbone(run, dataset: Path, tmp_path: Path) -> None:
    run(f"features {dataset} -o {tmp_path}/store --split val {BUILD} --set fit=crop")
    assert json.loads((tmp_path / "store" / "plan.json").read_text())["transform"]["fit"] == "crop"


def test_a_recipe_determines_the_store_of_its_training(run, dataset: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"""
data: {{path: {dataset}, min_count: 1, flips: true}}
model:
  encoder: {{name: grid, backbone: test_efficientnet, weights: random, size: 64}}
  decoder: {{name: show_attend_tell, embedding: 8, hidden: 8, attention: 8, values: 8}}
fine_tune: {{from_epoch: 1, stages: 1}}
output: {tmp_path / "run"}
epochs: 1
device: cpu
precision: 32-true
"""
    )
    built = run("features", recipe, "--set", "data.flips=true", "--device", "cpu", "--workers", 1)
    store = tmp_path / "run" / "features"
    assert built.code == 1 and "gone.jpg" in built.err  # the only training image, which is missing
    assert built.out.startswith(f"{store}: 3 images, also mirrored")
    (dataset.parent / "gone.jpg").write_bytes((dataset.parent / "red.jpg").read_bytes())
    again = run("features", recipe, "--device", "cpu", "-o", tmp_path / "mine")
    assert (again.code, again.after) == (0, "") and ": 4 images, also mirrored" in again.out
    trained = run("train", recipe, "--set", f"data.features={tmp_path / 'mine'}")
    assert trained.code == 0 and "--cut" not in trained.err, trained.err


@pytest.mark.parametrize("option", ["--cut 1", "--flips", "--strict", "--encoder regions", "--split dev"])
def test_options_that_a_recipe_determines_are_refused(run, option: str) -> None:
    result = run(f"features flickr8k_show_attend_tell -o store {option}")
    assert result.code == 2 and option.split()[0] in result.err and "--set" in result.err


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ("--set fine_tune.from_epoch=1 --set fine_tune.stages=null", ["nothing to store"]),
        ("--set data.augment.crop=0.5", ["data.augment", "leave it out"]),
    ],
)
def test_a_recipe_that_cannot_use_features(run, dataset: Path, settings: str, messages: list[str]) -> None:
    data = f"--set data.path={dataset} --set model.encoder.backbone=test_efficientnet"
    result = run(f"features flickr8k_show_attend_tell {data} {settings} --device cpu")
    assert result.code == 1 and all(message in result.err for message in messages)


def test_malformed_records_are_counted_or_refused(run, dataset: Path, tmp_path: Path) -> None:
    with open(dataset, "a") as file:
        file.write("no JSON\n")
    result = run(f"features {dataset} -o {tmp_path}/store --split val {BUILD}")
    assert result.code == 0 and "1 malformed record was left out, the first: " in result.err
    result = run(f"features {dataset} -o {tmp_path}/other --split val {BUILD} --strict")
    assert result.code == 1 and f"{dataset}:5" in result.err and not (tmp_path / "other").exists()
