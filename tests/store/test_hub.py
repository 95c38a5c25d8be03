"""Models on the hub: pushed, described and loaded again; every fault there is a clear error."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, constants

from captioner import Captioner, CheckpointError, Translator, store
from captioner.model.checkpoint import load_model, save_model
from captioner.store import CARD, CONFIG, CONSENSUS, GRAPHS, ONNX, SOURCE_VOCABULARY, VOCABULARY, WEIGHTS
from tests.hub import TOKEN, Hub, running
from tests.model.test_checkpoint import Malice, tiny_model
from tests.onnx.builders import tiny, write_images
from tests.search.test_consensus import random_map
from tests.translation.test_translator import SOURCE, build

NAME = "ada/small"
PARTS = {WEIGHTS, CONFIG, VOCABULARY, CARD, ".gitattributes"}
ABOUT = {"data": "flickr8k", "photos": 6000, "captions": 30000, "dev_cider": 0.5, "bits": 8}
ABOUT |= {"recipe": {"evaluation": {"search": {"width": 3}}}}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Return a function that gives the client an empty cache."""
    numbers = iter(range(99))

    def fresh() -> Path:
        folder = tmp_path / f"cache {next(numbers)}"
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
        return folder

    return fresh


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Callable[[], Path]) -> Iterator[Hub]:
    """A hub on this machine, the client's only one, where Ada is logged in."""
    cache()
    with running() as hub:
        for name, value in (
            ("ENDPOINT", hub.url),
            ("HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"),
            ("HF_TOKEN_PATH", str(tmp_path / "no token")),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HUB_OFFLINE", False),
        ):
            monkeypatch.setattr(constants, name, value, raising=False)  # older clients have no Xet
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
        yield hub


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (path,) = write_images(tmp_path, 1)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of two captioners that differ in their first weight, which is 7 in the second."""
    folder, model = tmp_path_factory.mktemp("models"), tiny_model()
    first = save_model(folder / "first", model)
    next(model.decoder.parameters()).data.fill_(7)
    return first, save_model(folder / "second", model)


@pytest.fixture
def pushed(hub: Hub, models: tuple[Path, Path]) -> Hub:
    """The hub with the first captioner."""
    hub.add(NAME, {file.name: file.read_bytes() for file in models[0].iterdir()} | {".gitattributes": b""})
    return hub


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript", reason="exporting needs it")
    from captioner.onnx.export import export

    folder = tmp_path_factory.mktemp("exported")
    export(tiny("show_tell"), folder / "graphs", images=write_images(folder, 2), about=ABOUT)
    return folder / "graphs"


def assert_same(ours: Any, theirs: Any) -> None:
    assert ours.to_dict() == theirs.to_dict()


def test_a_captioner_comes_back_as_it_was(
    hub: Hub, cache: Callable[[], Path], image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Captioner.from_model(tiny_model(width=3))
    captioner.about = ABOUT
    assert captioner.push_to_hub(NAME) == f"{hub.url}/{NAME}"
    repository = hub.repositories[NAME]
    assert set(repository.files) == PARTS and not repository.private
    assert len(repository.commits) == 2, "the repository's own commit, and one with the whole model"
    cache()
    monkeypatch.delenv("HF_TOKEN")
    hub.requests.clear()
    loaded = Captioner.from_pretrained(NAME)
    assert_same(loaded(image), captioner(image))
    assert sorted(hub.fetched()) == sorted([CONFIG, VOCABULARY, WEIGHTS][:2]), "large files come from another host"
    assert loaded.about == {name: value for name, value in ABOUT.items() if name != "bits"}, "they have 32 bits now"
    Captioner.from_pretrained(NAME)
    assert [method for method, _ in hub.requests] == ["HEAD", "HEAD"], "a cached model costs questions for a newer one"


def test_a_consensus_comes_back_as_it_was(hub: Hub, cache: Callable[[], Path]) -> None:
    model = tiny_model(width=3)
    model.consensus = random_map(model.encoder.features)
    Captioner.from_model(model).push_to_hub(NAME)
    assert set(hub.repositories[NAME].files) == PARTS | {CONSENSUS}
    cache()
    found = load_model(NAME).consensus
    assert found is not None
    for name, value in asdict(model.consensus).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_a_translator_comes_back_as_it_was(hub: Hub, cache: Callable[[], Path]) -> None:
    translator = Translator(build())
    translator.push_to_hub(NAME, private=True)
    assert hub.repositories[NAME].private and set(hub.repositories[NAME].files) == PARTS | {SOURCE_VOCABULARY}
    cache()
    for ours, theirs in zip(Translator.from_pretrained(NAME)(SOURCE), translator(SOURCE), strict=True):
        assert_same(ours, theirs)
    with pytest.raises(CheckpointError, match="is a translator and not a captioner"):
        Captioner.from_pretrained(NAME)


def test_an_exported_folder_is_transferred_whole(hub: Hub, tmp_path: Path) -> None:
    config = {"model": {"encoder": {"name": "grid"}, "decoder": {"name": "show_tell"}}, "graphs": {"int8": False}}
    config["agreement"] = {"photos": 1, "same": 1, "features": 0.0, "log_probabilities": 0.0}
    with store.replace(tmp_path / "small", ONNX, config) as folder:
        for name in (*GRAPHS, VOCABULARY, CARD):
            (folder / name).write_text(f"this is {name}")
    store.push(tmp_path / "small", NAME)
    found = store.locate(NAME)
    for name in (*GRAPHS, VOCABULARY, CONFIG):
        assert (found / name).read_bytes() == (tmp_path / "small" / name).read_bytes()


@pytest.mark.slow
def test_an_exported_captioner_comes_back_as_it_was(
    hub: Hub, cache: Callable[[], Path], exported: Path, image: Path
) -> None:
    captioner = Captioner.from_pretrained(exported)
    captioner.push_to_hub(NAME)
    files = hub.repositories[NAME].files
    assert set(files) == PARTS - {WEIGHTS} | set(GRAPHS)
    assert f'from_pretrained("{NAME}")' in files[CARD].decode()
    cache()
    assert_same(Captioner.from_pretrained(NAME)(image), captioner(image))
    # A model of another kind takes its place, and nothing of the old one stays.
    Captioner.from_model(tiny_model()).push_to_hub(NAME)
    assert set(hub.repositories[NAME].files) == PARTS
    Captioner.from_pretrained(NAME)(image)


def test_the_command_uploads_a_folder_as_it_is(hub: Hub, tmp_path: Path, repository: Path) -> None:
    """The client reads its settings when it is imported, here as a user sets them."""
    folder = save_model(tmp_path / "run" / "best", tiny_model(), about=ABOUT, dtype=torch.int8)
    (folder / "thesis.pkl").write_bytes(b"private")
    (tmp_path / "card.md").write_text("# Mine\n")
    environment = os.environ | hub.environment(tmp_path / "home")
    command = [sys.executable, "-m", "captioner", "push", str(folder), NAME, "--private"]
    for more in ([], ["--card", str(tmp_path / "card.md")]):
        done = subprocess.run([*command, *more], cwd=repository, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"{hub.url}/{NAME}\n"), done.stderr
        files = hub.repositories[NAME].files
        assert set(files) == PARTS and hub.repositories[NAME].private
        assert all(files[part] == (folder / part).read_bytes() for part in (WEIGHTS, CONFIG, VOCABULARY))
        assert files[CARD] == b"# Mine\n" if more else b'from_pretrained("ada/small")' in files[CARD]


def test_a_card_that_is_not_text_is_refused_before_anything_is_uploaded(hub: Hub, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "best", tiny_model())
    (folder / CARD).write_bytes(b"# Caf\xe9\n")
    with pytest.raises(CheckpointError, match=r"README.md: is not utf-8 text .*; repair or delete it"):
        store.push(folder, NAME)
    assert not hub.repositories


def test_the_hub_reads_the_card(pushed: Hub, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "run" / "best", tiny_model(), about=ABOUT)
    assert ModelCard.load(folder / CARD).data.model_name == "run"
    store.push(folder, NAME)
    card = ModelCard.load(NAME)
    assert (card.data.library_name, card.data.pipeline_tag, card.data.model_name) == (
        "captioner",
        "image-to-text",
        "small",
    )
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.metric_type, result.metric_value) == ("flickr8k", "cider", 50.0)
    assert result.metric_args == {"search": "beam 3"}
    (folder / CARD).write_text("# best\n\nIt is the best.\n")
    store.push(folder, NAME)
    assert pushed.repositories[NAME].files[CARD] == b"# best\n\nIt is the best.\n", "a person's card is theirs"
    with pytest.raises(CheckpointError, match=r"small: could not be uploaded.*400.*pipeline_tag|pipeline_tag"):
        store.push(folder, NAME, card="---\npipeline_tag: image-to-poem\n---\n")


def weight(name: str) -> float:
    return float(next(load_model(name).decoder.parameters()).flatten()[0].detach())


def test_a_revision_is_a_branch_a_tag_or_a_commit(pushed: Hub, models: tuple[Path, Path]) -> None:
    repository = pushed.repositories[NAME]
    old = weight(NAME)
    first = repository.refs["v1"] = repository.refs["main"]
    store.push(models[1], NAME)
    assert weight(NAME) == weight(f"{NAME}@main") == 7 != old
    assert weight(f"{NAME}@v1") == weight(f"{NAME}@{first}") == old
    with pytest.raises(CheckpointError, match=f"^model '{NAME}@v2': has no revision 'v2'; {pushed.url}/{NAME} lists"):
        load_model(f"{NAME}@v2")


@pytest.mark.parametrize(
    ("token", "name", "says"),
    [
        (TOKEN, "ada/nothing", "no such model on the hub, or it is private; check the name, .* hf auth login"),
        (None, "ada/nothing", "no such model on the hub, or it is private; check the name, .* hf auth login"),
        (None, "ada/secret", "no such model on the hub, or it is private; .* log in with: hf auth login"),
        ("hf_eve", "ada/secret", "no such model on the hub, or it is private; .* log in with: hf auth login"),
        ("hf_forged", "ada/open", "your login is not valid; log in again with: hf auth login"),
        ("hf_eve", "ada/gated", "access to it must be requested at http://127.0.0.1:[0-9]+/ada/gated; then log in"),
        (None, "ada/gated", "access to it must be requested at"),
        (TOKEN, "ada/closed", "your login may not read it; log in as one who may"),
        (
            TOKEN,
            "ada/ill",
            r"the hub's cache does not have all of it, and the hub answered 503 \(no\); try again later",
        ),
        (TOKEN, "ada/od..d", "is not a name on the hub .* give user/model or user/model@revision"),
    ],
)
def test_the_error_for_an_unreadable_file_has_the_reason(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None, name: str, says: str
) -> None:
    hub.users["hf_eve"] = "eve"
    hub.fails = {"ada/closed": 403, "ada/ill": 503}
    for there, settings in (("open", {}), ("secret", {"private": True}), ("gated", {"gated": True})):
        hub.add(f"ada/{there}", {CONFIG: b"{}"}, **settings)
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CheckpointError, match=f"^model '{name}': .*{says}"):
        load_model(name)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "is on the hub, but is not a model of captioner"),
        ({CONFIG: b'{"model_type": "bert"}', WEIGHTS: b"1"}, "is on the hub, but is not a model of captioner"),
        ({CONFIG: b'{"captioner": "9", "kind": "painter"}'}, "is on the hub, but is not a model of captioner"),
        ({CONFIG: b"GIF89a", WEIGHTS: b"1"}, "is on the hub, but is not a model of captioner"),
        (
            {CONFIG: b'{"captioner": "9", "format": 9, "model": {}, "tuned_stages": 0, "encoder_fingerprint": null}'},
            "newer",
        ),
    ],
)
def test_repositories_without_a_captioner_are_not_downloaded(hub: Hub, files: dict[str, bytes], says: str) -> None:
    hub.add("ada/bert", files)
    with pytest.raises(CheckpointError, match=f"^model 'ada/bert': .*{says}"):
        load_model("ada/bert")
    assert set(hub.fetched()) <= {CONFIG}


def test_a_damaged_repository_is_refused_and_a_pickle_is_never_run(pushed: Hub, tmp_path: Path) -> None:
    repository = pushed.repositories[NAME]
    whole = dict(repository.files)
    repository.commit({file: data for file, data in whole.items() if file != VOCABULARY})
    with pytest.raises(CheckpointError, match=f"^model '{NAME}': is damaged, its repository has no {VOCABULARY}"):
        load_model(NAME)
    evil = pickle.dumps(Malice(tmp_path / "trace"))
    repository.commit(whole | {WEIGHTS: evil, "pytorch_model.bin": evil, "model.pkl": evil})
    pushed.requests.clear()
    with pytest.raises(
        CheckpointError, match=rf"^model '{NAME}': .*model\.safetensors: has .* it was cut off.*captioner push"
    ):
        load_model(NAME)
    assert not (tmp_path / "trace").exists()
    assert not {"pytorch_model.bin", "model.pkl"} & set(pushed.fetched())


def test_a_download_that_broke_off_is_not_taken_for_a_model(
    pushed: Hub, cache: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache()
    pushed.breaks_off = 1000
    with pytest.raises(CheckpointError, match=f"^model '{NAME}': .* cannot be reached, or broke off .*try again"):
        load_model(NAME)
    assert not list(folder.rglob(WEIGHTS))
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match=f"^model '{NAME}': .*not have all of it, and HF_HUB_OFFLINE forbids"):
            load_model(NAME)
    pushed.breaks_off = None
    load_model(NAME)


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "no network"])
def test_without_a_network_the_cache_serves(
    pushed: Hub, cache: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    model = load_model(NAME)
    pushed.requests.clear()
    if how == "HF_HUB_OFFLINE":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        says = "the hub's cache does not have all of it, and HF_HUB_OFFLINE forbids any transfer; unset that"
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        )
        says = r"and http://127.0.0.1:9 cannot be reached, or broke off \(.*refused\); check the network and try again"
    again = load_model(NAME)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(model.parameters(), again.parameters(), strict=True))
    cache()
    with pytest.raises(CheckpointError, match=f"^model '{NAME}': .*{says}"):
        load_model(NAME)
    assert not pushed.requests


@pytest.mark.parametrize(
    ("token", "name", "fails", "says"),
    [
        (None, "ada/new", {}, "no file there was changed: you are not logged in; run: hf auth login"),
        ("hf_forged", "ada/new", {}, "your login is not valid"),
        ("hf_eve", "ada/new", {}, "your login may not write to it; log in as one who may"),
        ("hf_eve", NAME, {}, "your login may not write to it; log in as one who may"),
        (TOKEN, NAME, {"/upload/": 500}, "no file there was changed: the hub answered 500"),
        (TOKEN, NAME, {"/commit/": 500}, "no file there was changed: the hub answered 500"),
        (TOKEN, "small", {}, "is not a model's name on the hub; give user/model"),
        (TOKEN, f"{NAME}@v1", {}, "is not a model's name on the hub; give user/model, without a revision"),
        (TOKEN, "ada/bert", {}, "ada/bert: exists and is not a model of captioner; give another name"),
        (TOKEN, "ada/thesis", {}, "ada/thesis: exists and is not a model of captioner; give another name"),
    ],
)
def test_an_upload_that_fails_changes_nothing(
    pushed: Hub,
    models: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    name: str,
    fails: dict[str, int],
    says: str,
) -> None:
    pushed.users["hf_eve"] = "eve"
    pushed.fails = fails
    pushed.add("ada/bert", {CONFIG: b'{"model_type": "bert"}', WEIGHTS: b"1"})
    pushed.add("ada/thesis", {"thesis.pdf": b"1"})
    before = {there: dict(repository.files) for there, repository in pushed.repositories.items()}
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CheckpointError, match=f"(?s){says}") as caught:
        store.push(models[1], name)
    assert name in str(caught.value)
    assert {there: dict(repository.files) for there, repository in pushed.repositories.items()} == before


def test_a_private_model_is_not_uploaded_to_a_public_repository(pushed: Hub, models: tuple[Path, Path]) -> None:
    before = dict(pushed.repositories[NAME].files)
    with pytest.raises(CheckpointError, match=f"^{NAME}: exists and is public; make it private on its page"):
        store.push(models[1], NAME, private=True)
    assert pushed.repositories[NAME].files == before


def test_an_incomplete_folder_is_not_uploaded(hub: Hub, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", tiny_model())
    (folder / VOCABULARY).unlink()
    with pytest.raises(CheckpointError, match=f"{VOCABULARY}: is missing; copy the whole model folder"):
        store.push(folder, NAME)
    (folder / CONFIG).write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="not the config of a model of captioner"):
        store.push(folder, NAME)
    assert not hub.requests
