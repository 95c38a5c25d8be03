"""A captioner's folder with graphs next to its weights: onnxruntime runs the one on a CPU, and torch the others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from captioner import Captioner, store
from captioner.data.annotations import read_captions
from captioner.engines.model import ModelEngine, model_engine
from captioner.errors import CaptionerError, CheckpointError, ConfigError
from captioner.evaluation.evaluate import generate
from captioner.features import FeatureStore, build_store
from captioner.machine import backend
from captioner.model.checkpoint import load_model, save_model
from captioner.store import CARD, CONFIG, GRAPHS, VOCABULARY, WEIGHTS
from tests.model.test_checkpoint import tiny_model
from tests.onnx.builders import in_32_bits

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"exporting needs {package}; pip install 'captioner[onnx]'")

from captioner.onnx.engine import OnnxEngine  # noqa: E402
from captioner.onnx.export import add_graphs  # noqa: E402


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, images: list[Path]) -> Path:
    """A Transformer's folder with weights and graphs."""
    decoder = {"name": "transformer", "blocks": 1, "size": 8, "heads": 2, "feed_forward": 12}
    model = tiny_model(decoder=decoder, width=3)
    folder = save_model(tmp_path_factory.mktemp("models") / "both", model, card="# Mine")
    add_graphs(folder, calibrate=None, images=images)
    return folder


@pytest.fixture
def copy(both: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(both, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.captioner.has_gpu", lambda: False)


def test_the_folder_has_both_and_its_card_stays(both: Path) -> None:
    assert {file.name for file in both.iterdir()} == {WEIGHTS, VOCABULARY, CONFIG, CARD, *GRAPHS}
    assert (both / CARD).read_text() == "# Mine"
    assert set(store.read_whole(both)["files"]) == {WEIGHTS, VOCABULARY, *GRAPHS}


def test_a_cpu_takes_the_graphs_and_the_rest_torch(
    both: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for device, engine, kind in (
        ("auto", "auto", OnnxEngine),
        ("cpu", "auto", OnnxEngine),
        ("auto", "onnx", OnnxEngine),
        ("cpu", "torch", ModelEngine),
    ):
        captioner = Captioner.from_pretrained(both, device=device, engine=engine)
        assert type(captioner.engine) is kind, (device, engine)
    in_32_bits(monkeypatch)
    monkeypatch.setattr("captioner.captioner.has_gpu", lambda: True)
    assert type(Captioner.from_pretrained(both).engine) is ModelEngine
    ours, theirs = (Captioner.from_pretrained(both, device="cpu", engine=engine) for engine in ("onnx", "torch"))
    found, expected = ours([*images]), theirs([*images])
    assert [caption.text for caption in found] == [caption.text for caption in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.attention, other.attention, atol=1e-4)


def test_without_onnxruntime_torch_runs_it(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.captioner.find_spec", lambda name: None)
    assert type(Captioner.from_pretrained(both).engine) is ModelEngine


def test_the_graphs_need_no_torch_and_the_weights_do(both: Path, images: list[Path]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from captioner import Captioner; "
        f"captioner = Captioner.from_pretrained({str(both)!r}); print(captioner({str(images[0])!r}).text); "
        f"captioner({str(images[0])!r}, attention='1.1')"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.stdout.strip() == Captioner.from_pretrained(both)(images[0]).text
    assert "is a model in torch, which is not installed" in made.stderr


def test_heads_features_and_parameters_come_from_the_weights(both: Path, images: list[Path], tmp_path: Path) -> None:
    captioner = Captioner.from_pretrained(both)
    theirs = Captioner.from_pretrained(both, engine="torch")
    for attention in ("1.1", "rollout", "heads"):
        one, other = (each(images[0], attention=attention) for each in (captioner, theirs))
        assert one.to_dict() == other.to_dict()
    with pytest.raises(CaptionerError, match=r"there is no head 7\.1"):
        captioner(images[0], attention="7.1")
    assert model_engine(captioner.engine, "test").model.config == load_model(both).config


def test_a_feature_store_is_read_by_the_weights(both: Path, images: list[Path], tmp_path: Path) -> None:
    lines = [f"{path.name}#0\ta dog runs" for path in images]
    (tmp_path / "captions.token").write_text("\n".join(lines))
    data = read_captions(tmp_path / "captions.token", images=images[0].parent)
    build_store(
        tmp_path / "features", load_model(both).encoder, [(image.image_id, image.path) for image in data.images]
    )
    captioner = Captioner.from_pretrained(both)
    features = FeatureStore(tmp_path / "features")
    found, errors = generate(captioner, data, features=features)
    assert len(found) == len(images) and not errors


def test_damage_is_an_error_of_the_engine_that_needs_the_file(copy: Path, images: list[Path]) -> None:
    weights = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    assert Captioner.from_pretrained(copy)(images[0]).tokens
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: has .* cut off"):
        Captioner.from_pretrained(copy, engine="torch")
    (copy / WEIGHTS).write_bytes(weights)
    (copy / GRAPHS[1]).unlink()
    assert Captioner.from_pretrained(copy, engine="torch")(images[0]).tokens
    with pytest.raises(CheckpointError, match=rf"{GRAPHS[1]}: is missing"):
        Captioner.from_pretrained(copy)
    with pytest.raises(CheckpointError, match=rf"{GRAPHS[1]}: is missing"):
        store.read_whole(copy)


def test_a_saved_copy_has_both(both: Path, images: list[Path], tmp_path: Path) -> None:
    copy = Captioner.from_pretrained(both).save_pretrained(tmp_path / "saved")
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == {
        file.name: file.read_bytes() for file in both.iterdir()
    }


def test_new_weights_drop_the_graphs_of_the_old(copy: Path) -> None:
    save_model(copy, load_model(copy))
    assert not any((copy / name).exists() for name in GRAPHS)
    assert type(Captioner.from_pretrained(copy).engine) is ModelEngine


def test_unavailable_engines_are_refused(both: Path, tmp_path: Path) -> None:
    plain = save_model(tmp_path / "plain", tiny_model())
    for name, options, match in (
        (both, {"engine": "tensorflow"}, "engine 'tensorflow' is none of auto, onnx, torch"),
        (plain, {"engine": "onnx"}, "plain: has no graphs; captioner export writes them"),
        (f"{both}+{plain}", {"engine": "onnx"}, "an ensemble runs in torch"),
        (both, {"engine": "onnx", "device": "cuda"}, "onnxruntime runs captioners on the CPU; .* or the engine torch"),
    ):
        with pytest.raises(ConfigError, match=match):
            Captioner.from_pretrained(name, **options)  # type: ignore[arg-type]
    shutil.copytree(both, tmp_path / "exported")
    exported = tmp_path / "exported"
    config = store.read_config(exported)
    (exported / WEIGHTS).unlink()
    store.write_config(exported, store.ONNX, {**config, "kind": store.ONNX})
    with pytest.raises(ConfigError, match="is exported, and torch runs the model that it was exported from"):
        Captioner.from_pretrained(exported, engine="torch")


def test_without_a_driver_no_gpu_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.sys, "platform", "linux")
    monkeypatch.setattr(backend.os.path, "exists", lambda path: False)
    monkeypatch.setattr(backend, "_device", lambda name, number: pytest.fail("torch was asked"))
    assert not backend.has_gpu()
