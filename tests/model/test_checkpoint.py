"""Model folders: a saved model is read back, and anything else is a clear error."""

from __future__ import annotations

import hashlib
import json
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from captioner import Captioner, store
from captioner.errors import CaptionerError, CheckpointError
from captioner.model import CaptionModel, ModelConfig
from captioner.model.checkpoint import load_model, save_model
from captioner.store import CARD, CONFIG, DEFAULT, VOCABULARY, WEIGHTS, kind_of, locate, shipped
from captioner.store.weights import read_weights
from captioner.text.vocabulary import Vocabulary


def tiny_model(
    *,
    tuned: bool = True,
    fit: str = "squash",
    encoder: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
    **search: Any,
) -> CaptionModel:
    """Build a model of random weights whose folder holds those of its encoder too, unless not ``tuned``."""
    torch.manual_seed(0)
    encoder = encoder or {"name": "grid", "backbone": "test_efficientnet", "size": 64, "fit": fit, "weights": "random"}
    decoder = decoder or {"name": "show_attend_tell", "embedding": 8, "hidden": 12, "attention": 6, "values": 10}
    words = ("a", "dog", "cat", "on", "the", "grass", "runs", "two")
    model = CaptionModel.build(
        ModelConfig(encoder=encoder, decoder=decoder, search={"min_words": 2, "max_words": 7, **search}),
        Vocabulary(words, range(8, 0, -1)),
    )
    for weight in model.decoder.parameters():  # the features are faint, and images should differ in their captions
        torch.nn.init.normal_(weight, std=20 if weight.shape[-1] == model.encoder.features else 1)
    model.tuned_stages = model.encoder.stages if tuned else 0
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model."""
    return save_model(tmp_path / "model", tiny_model(), card="# A tiny model", about={"seed": 1})


def older(folder: Path) -> Path:
    """Turn the folder into one of an older version, whose config lists no files, so their content decides."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    del config["files"]
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_what_is_saved_is_loaded(tmp_path: Path, dtype: torch.dtype | None) -> None:
    model = tiny_model(width=3)
    loaded = load_model(save_model(tmp_path / "made on the way" / "model", model, dtype=dtype))
    assert (
        loaded.config == model.config
        and loaded.vocabulary == model.vocabulary
        and loaded.vocabulary.counts == model.vocabulary.counts
    )
    assert loaded.tuned_stages == loaded.encoder.stages and not loaded.training
    theirs = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        rounded = tensor.to(dtype).to(tensor.dtype) if dtype and tensor.is_floating_point() else tensor
        assert torch.equal(theirs[name], rounded) and theirs[name].dtype == tensor.dtype, name
    stored = {tensor.dtype for tensor in load_file(tmp_path / "made on the way" / "model" / WEIGHTS).values()}
    assert stored == {dtype or torch.float32, torch.int64}


@pytest.mark.parametrize("half", [("encoder.",), ()], ids=["all but the encoder", "all"])
def test_eight_bits_change_a_model_little(half: tuple[str, ...], tmp_path: Path) -> None:
    model = tiny_model()
    loaded = load_model(save_model(tmp_path / "model", model, dtype=torch.int8, half=half))
    theirs = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(theirs[name], tensor, rtol=1e-3, atol=float(tensor.abs().max()) / 250), name
        assert theirs[name].dtype == tensor.dtype, name
        if name.startswith("encoder.") and tensor.dim() > 1:
            assert torch.equal(theirs[name], tensor.half().float()) == bool(half), name
        elif name.startswith("encoder.") and tensor.is_floating_point():
            assert torch.equal(theirs[name], tensor.half().float()), name


def test_the_folder_describes_itself(folder: Path) -> None:
    assert set(contents(folder)) == {WEIGHTS, CONFIG, VOCABULARY, CARD}
    assert (folder / CARD).read_text() == "# A tiny model"
    assert json.loads((folder / CONFIG).read_text())["about"] == {"seed": 1}
    modes = {(folder / name).stat().st_mode & 0o777 for name in (WEIGHTS, CONFIG, VOCABULARY, CARD)}
    assert len(modes) == 1, "the files do not have the same permissions"


def test_an_encoder_that_was_not_tuned_stays_outside_and_must_be_the_same(tmp_path: Path) -> None:
    model = tiny_model(tuned=False)
    folder = save_model(tmp_path / "model", model)
    assert all(name.startswith("decoder.") for name in load_file(folder / WEIGHTS))
    torch.manual_seed(0)  # the encoder that is "installed here" is random: the same ...
    loaded = load_model(folder)
    assert loaded.tuned_stages == 0 and loaded.encoder.fingerprint() == model.encoder.fingerprint()
    torch.manual_seed(1)  # ... and another one
    with pytest.raises(CheckpointError, match=r"model: was trained on features of other encoder weights.*reinstall"):
        load_model(folder)


def test_only_the_tuned_stages_are_stored(tmp_path: Path) -> None:
    model = tiny_model(tuned=False)
    model.tuned_stages = 2
    with torch.no_grad():
        for weight in model.encoder.tail(2).parameters():
            weight.mul_(0.5)
    folder = save_model(tmp_path / "model", model)
    stored = {name.removeprefix("encoder.") for name in load_file(folder / WEIGHTS) if name.startswith("encoder.")}
    assert stored == set(model.encoder.tail(2).state_dict()) and len(stored) < len(model.encoder.state_dict())
    torch.manual_seed(0)
    loaded = load_model(folder)
    theirs = loaded.state_dict()
    assert loaded.tuned_stages == 2 and all(
        torch.equal(theirs[name], tensor) for name, tensor in model.state_dict().items()
    )
    torch.manual_seed(1)
    with pytest.raises(CheckpointError, match="other encoder weights"):
        load_model(folder)


def changed(folder: Path, **values: Any) -> str:
    return json.dumps(json.loads((folder / CONFIG).read_text()) | values)


@pytest.mark.parametrize(
    ("name", "harm", "says"),
    [
        (WEIGHTS, lambda f: None, "is missing; copy the whole"),
        (WEIGHTS, lambda f: b"", "damaged"),
        (WEIGHTS, lambda f: (f / WEIGHTS).read_bytes()[:-100], "damaged"),
        (WEIGHTS, lambda f: pickle.dumps({"decoder.score": 1}), "damaged or not a safetensors file"),
        (CONFIG, lambda f: b"{", "is not JSON"),
        (CONFIG, lambda f: b"[]", "its JSON is a list, not an object"),
        (CONFIG, lambda f: b"\xff\xfe", "is not utf-8 text"),
        (
            CONFIG,
            lambda f: b'{"architectures": ["BertModel"], "model_type": "bert"}',
            "not the config of a model of captioner",
        ),
        (CONFIG, lambda f: changed(f, format=store.FORMAT + 1).encode(), "newer than this program.*upgrade"),
        (CONFIG, lambda f: changed(f, model={"encoder": {"name": "gird"}}).encode(), "Did you mean 'grid'"),
        (CONFIG, lambda f: changed(f, model={"decoders": {}}).encode(), "Did you mean 'decoder'"),
        (VOCABULARY, lambda f: None, "is missing; copy the whole"),
        (VOCABULARY, lambda f: b"{}", "not a readable vocabulary"),
        (
            VOCABULARY,
            lambda f: (f / VOCABULARY).read_bytes().replace(b'"format": 1', b'"format": 9'),
            "newer than this program",
        ),
        (
            VOCABULARY,
            lambda f: (f / VOCABULARY).read_bytes().replace(b'"dog"', b'"dog", "cow"').replace(b"[8,", b"[9, 8,"),
            "does not fit",
        ),
    ],
)
def test_a_damaged_folder_is_a_clear_error(folder: Path, name: str, harm: Any, says: str) -> None:
    older(folder)
    value = harm(folder)
    if value is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(value)
    with pytest.raises(CheckpointError, match=f"(?s){says}") as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


class Malice:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("write", [lambda value, path: path.write_bytes(pickle.dumps(value)), torch.save])
def test_a_pickle_is_never_run(folder: Path, tmp_path: Path, write: Any) -> None:
    older(folder)
    write(Malice(tmp_path / "trace"), folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or not a safetensors file"):
        load_model(folder)
    assert not (tmp_path / "trace").exists()
    pickle.loads(pickle.dumps(Malice(tmp_path / "trace")))
    assert (tmp_path / "trace").exists(), "the pickle is harmless, so the test proved nothing"


@pytest.mark.parametrize("file", ["thesis.txt", CONFIG])
def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path, file: str) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / file).write_text('{"model_type": "bert"}')
    (place / "pictures.zip").write_text("three years of work")
    before = contents(place)
    with pytest.raises(CheckpointError, match="mine: exists and is not a model folder"):
        save_model(place, tiny_model())
    assert contents(place) == before
    with pytest.raises(CheckpointError, match="exists and is not a model folder"):
        save_model(place / file, tiny_model())


def test_a_model_is_replaced_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Vocabulary, "save", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            save_model(folder, tiny_model(), card="new")
    assert contents(folder) == before and [path.name for path in folder.parent.iterdir()] == ["model"]
    for name in ("step.onnx", "LICENSE"):  # of an earlier model, and not of a model
        (folder / name).touch()
    save_model(folder, tiny_model(), card="new")
    assert (
        set(contents(folder)) == {WEIGHTS, CONFIG, VOCABULARY, CARD, "LICENSE"} and (folder / CARD).read_text() == "new"
    )
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    (folder.parent / "empty").mkdir()
    load_model(save_model(folder.parent / "empty", tiny_model()))


def test_shipped_models_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.store.names.PACKAGE", tmp_path / "captioner")
    with pytest.raises(CheckpointError, match="no model comes with this copy"):
        locate()
    (tmp_path / "assets" / "examples").mkdir(parents=True)  # not a model
    in_checkout = save_model(tmp_path / "assets" / DEFAULT, tiny_model())
    assert shipped() == {DEFAULT: in_checkout} and locate() == locate(DEFAULT) == in_checkout
    packaged = save_model(tmp_path / "captioner" / "assets" / DEFAULT, tiny_model())
    assert locate() == packaged  # an installed package's own come first
    with pytest.raises(CheckpointError, match=f"Did you mean '{DEFAULT}'.*Shipped: {DEFAULT}"):
        locate("show_atend_tell")


def test_finding_a_shipped_model_reads_no_other_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.store.names.PACKAGE", tmp_path / "captioner")
    for name in ("another", DEFAULT, "third"):
        save_model(tmp_path / "assets" / name, tiny_model())
    read: list[Path] = []
    monkeypatch.setattr("captioner.store.names.kind_of", lambda folder: read.append(folder) or kind_of(folder))
    assert locate() == locate(DEFAULT) == tmp_path / "assets" / DEFAULT
    assert read == [tmp_path / "assets" / DEFAULT] * 2


def test_a_folder_without_a_model_is_refused(folder: Path, tmp_path: Path) -> None:
    assert locate(folder) == locate(str(folder)) == folder
    for path, says in (
        (tmp_path, f"not a model folder, it has no {CONFIG}"),
        (folder / WEIGHTS, "is a file; give the model's folder"),
    ):
        with pytest.raises(CheckpointError, match=f"{path}: {says}"):
            locate(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        locate(tmp_path / "nowhere")


@pytest.mark.parametrize("part", [WEIGHTS, VOCABULARY])
def test_a_changed_byte_is_damage_that_names_the_file(folder: Path, part: str) -> None:
    listed = json.loads((folder / CONFIG).read_text())["files"][part]
    data = bytearray((folder / part).read_bytes())
    assert listed == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    data[len(data) // 2] ^= 1
    (folder / part).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{part}: is damaged or another model's, its SHA-256 .* copy the whole"):
        load_model(folder)
    with pytest.raises(CheckpointError, match=part):
        store.push(folder, "ada/tiny")
    assert load_model(save_model(folder, tiny_model()))  # a damaged one can still be replaced


def test_a_folder_of_an_older_version_is_read_without_hashes(folder: Path) -> None:
    assert load_model(older(folder)).vocabulary == tiny_model().vocabulary


@pytest.mark.parametrize("name", shipped(None))
def test_the_shipped_models_are_whole(name: str) -> None:
    folder = shipped(None)[name]
    config = store.read_whole(folder, kind_of(folder))
    assert set(config["files"]) == set(store.parts_of(kind_of(folder), config))


def changed_weights(folder: Path, change: Any) -> Path:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    return older(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w["decoder.score"].fill_(torch.nan), "decoder.score has numbers that are not finite"),
        (lambda w: w["decoder.score"][0].fill_(-torch.inf), "decoder.score has numbers that are not finite"),
        (
            lambda w: w.update({"decoder.score": w["decoder.score"].long()}),
            "decoder.score is torch.int64",
        ),
        (lambda w: w.update({"decoder.score": w["decoder.score"] + 0j}), "not finite|not a safetensors"),
        (lambda w: w.update({"decoder.score": w["decoder.score"][:3].clone()}), "does not fit.*decoder.score"),
        (lambda w: w.update({"decoder.other": torch.ones(1)}), "does not fit.*decoder.other"),
        (lambda w: w.update({"other": torch.ones(1)}), "does not fit.*other"),
        (lambda w: w.pop("decoder.score"), "does not fit.*decoder.score"),
        (lambda w: w.update({"decoder.score.row_scale": torch.ones(6)}), "not a matrix in eight bits"),
        (lambda w: w.update({"x.row_scale": torch.ones(6)}), "belongs to no weights"),
    ],
)
def test_weights_that_are_not_this_models_are_refused(folder: Path, change: Any, says: str) -> None:
    with pytest.raises(CheckpointError, match=rf"(?s){WEIGHTS}: .*({says})"):
        load_model(changed_weights(folder, change))


def test_weights_whose_sum_overflows_are_finite(tmp_path: Path) -> None:
    save_file({"a": torch.full((4,), 3e38)}, tmp_path / WEIGHTS)
    assert read_weights(tmp_path / WEIGHTS)["a"][0] == 3e38


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("decoder", {"hidden": 10**6}),
        ("decoder", {"hidden": 10**9}),
        ("decoder", {"embedding": 10**30}),
        ("refiner", {"name": "transformer", "blocks": 10**9, "size": 8, "heads": 1, "feed_forward": 1}),
        ("refiner", {"name": "transformer", "size": 2**40}),
        ("encoder", {"size": 10**9}),
        ("search", {"width": 10**9}),
        ("search", {"max_words": 10**9}),
        ("search", {"length_normalisation": 1e400}),
        ("encoder", {"backbone": "hf-hub:ada/evil"}),
        ("encoder", {"backbone": "resnet18.'); import os ('"}),
    ],
)
def test_a_config_of_huge_sizes_is_refused_before_it_takes_memory(
    folder: Path, part: str, settings: dict[str, Any]
) -> None:
    model = json.loads((folder / CONFIG).read_text())["model"]
    (folder / CONFIG).write_text(changed(folder, model=model | {part: (model[part] or {}) | settings}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CaptionerError):
        load_model(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "it took more than 200 MB"


@pytest.mark.parametrize("tuned", [-1, 99, True, "1", None])
def test_stages_that_the_encoder_does_not_have_are_refused(folder: Path, tuned: Any) -> None:
    (folder / CONFIG).write_text(changed(folder, tuned_stages=tuned))
    with pytest.raises(CheckpointError, match=r"config\.json: tuned_stages: is"):
        load_model(folder)


@pytest.mark.parametrize("config", ["[" * 100_000, '{"format": 1, "about": ' + '{"a":' * 100 + "1" + "}" * 101])
def test_a_config_that_is_nested_too_deeply_is_refused(folder: Path, config: str) -> None:
    (folder / CONFIG).write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        load_model(folder)


@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 300 + "/y", "a\x00b", "a/b\x00", "a+" + "x" * 300, "a/b@" + "x" * 300]
)
def test_a_name_that_no_folder_can_have_is_an_unknown_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError):
        store.locate_captioners(name)


@pytest.mark.parametrize(("backbone", "library"), [("resnet50", "torchvision"), ("resnet18", "timm")])
def test_a_model_never_downloads_a_backbone(
    backbone: str, library: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise AssertionError("it was downloaded")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    monkeypatch.setattr("timm.models._builder.load_pretrained", download)
    model = json.loads((folder / CONFIG).read_text())["model"]
    encoder = {"name": "grid", "backbone": backbone}
    (folder / CONFIG).write_text(changed(folder, model=model | {"encoder": encoder}))
    with pytest.raises(CaptionerError, match=rf"'{backbone}', which are neither.*python -c \".*{library}"):
        load_model(folder)


def test_weights_that_are_finite_but_too_large_to_compute_with_are_a_clear_error(folder: Path) -> None:
    captioner = Captioner.from_pretrained(changed_weights(folder, lambda w: w["decoder.output.weight"].fill_(1e38)))
    with pytest.raises(CheckpointError, match="no probabilities: its weights are damaged"):
        captioner(Image.new("RGB", (80, 60), "red"))
