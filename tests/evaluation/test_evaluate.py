from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner import Captioner
from captioner.data.annotations import read_captions
from captioner.engines.model import model_engine
from captioner.errors import AnnotationError, EvaluationError, FeatureStoreError
from captioner.evaluation.evaluate import evaluate, score
from captioner.evaluation.results import write_results
from captioner.features import build_store
from captioner.model import CaptionModel, ModelConfig
from captioner.model.checkpoint import save_model
from captioner.text.vocabulary import Vocabulary

METRICS = ("BLEU", "CIDEr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with random weights."""
    config = ModelConfig(
        encoder={"name": "grid", "backbone": "test_efficientnet", "weights": "random", "size": 64},
        decoder={"name": "show_tell", "embedding": 8, "hidden": 8},
        search={"width": 1, "max_words": 5, "min_words": 2},  # type: ignore[arg-type]
    )
    model = CaptionModel.build(config, Vocabulary(["a", "dog", "number", "runs"]))
    model.tuned_stages = model.encoder.stages  # saves its random weights
    return save_model(tmp_path_factory.mktemp("models") / "tiny", model)


@pytest.fixture
def model(folder: Path) -> Captioner:
    return Captioner.from_pretrained(folder, device="cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of three images in "dev", of which one has no reference, and one image in "test"."""
    rows = []
    for number, split in enumerate(("dev", "dev", "dev", "test")):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        texts = [f"a dog number {number} runs", f"dog {number}"] if number != 1 else []
        rows.append({"image": f"{number}.png", "split": split, "captions": texts})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data.jsonl"


def test_models_and_data_are_taken_by_path_or_loaded(data: Path, folder: Path, model: Captioner) -> None:
    done: list[tuple[int, int]] = []
    result = evaluate(folder, data, metrics=METRICS, progress=lambda *counts: done.append(counts))
    assert list(result.captions) == ["0.png", "1.png", "2.png"] and done[-1] == (3, 3)
    assert list(result.scores) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr"]
    assert list(result.per_image) == ["0.png", "2.png"] and result.errors == []
    assert result.notes == ["Not scored, for lack of reference captions: 1 image."] and result.seconds > 0
    loaded = read_captions(data, captionless=True)
    again = evaluate(model, loaded, split="dev", metrics=METRICS)
    assert again.captions == result.captions and again.scores == result.scores
    assert len(evaluate(folder, loaded, metrics=["BLEU"]).captions) == 4  # all splits
    with pytest.raises(AnnotationError, match="val"):
        evaluate(folder, loaded.split("test"), split="val")


def test_features_take_the_place_of_images(
    data: Path, model: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.encoders.encoder.fast_dtype", lambda device: torch.float32)  # as the store is made
    images = [(image.image_id, image.path) for image in read_captions(data, captionless=True).split("dev").images]
    store = build_store(
        tmp_path / "features", model_engine(model.engine, "test").encoders[0], images, workers=1
    ).store.folder
    plain = evaluate(model, data, metrics=METRICS)
    assert evaluate(model, data, features=store, metrics=METRICS).captions == plain.captions
    with pytest.raises(FeatureStoreError):
        evaluate(model, data, features=tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "0.png")
    rows = json.dumps({"image": "3.png", "split": "dev", "caption": "a dog"})
    data.write_text(data.read_text().replace('"3.png"', '"4.png"') + rows + "\n")
    again = evaluate(model, data, features=store, metrics=METRICS)
    assert again.scores == plain.scores and "0.png, are not the files whose features it has." in again.notes[-1]
    assert [str(error) for error in again.errors] == [f"{tmp_path / '3.png'}: has no features in {store}"]


def test_captions_are_kept_before_a_scorer_fails(
    data: Path, model: Captioner, fake_java: Callable[[str], None]
) -> None:
    fake_java("exit 1")
    kept: list[dict[str, str]] = []
    with pytest.raises(EvaluationError, match="PTB tokeniser failed"):
        evaluate(model, data, keep=kept.append)
    assert len(kept[0]) == 3


def test_captions_are_scored_from_a_file_or_a_mapping(data: Path, tmp_path: Path) -> None:
    captions = {"0.png": "a dog number 0 runs", "2.png": "a dog number 2 runs"}
    write_results(tmp_path / "theirs.json", captions)
    result = score(tmp_path / "theirs.json", data, metrics=METRICS)
    assert result.scores == score(captions, data, split="dev", metrics=METRICS).scores
    assert result.scores["BLEU-4"] == pytest.approx(1, abs=1e-3) and result.captions == captions
    assert list(result.per_image) == list(captions) and not result.errors and result.seconds == 0
    (error,) = score(captions | {"9.png": "a cat"}, data, metrics=METRICS, source="theirs").errors
    assert str(error) == "theirs: 1 captions are of images that data, dev does not have: '9.png'"
    with pytest.raises(EvaluationError, match=r"theirs\.json: no caption is of an image of data"):
        score(tmp_path / "theirs.json", data, split="test")
