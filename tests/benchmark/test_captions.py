from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from captioner.benchmark import captions as module
from captioner.benchmark.cache import BenchmarkCache
from captioner.benchmark.captions import GeneratedCaptions, caption_all
from captioner.benchmark.contestants import Contestant, GivenCaptions, find
from captioner.benchmark.listener import Listener
from captioner.data.dataset import CaptionData, CaptionedImage
from captioner.errors import CheckpointError, ConfigError, EvaluationError, ImageError


class Models:
    """Stub for all models that records the images each captioned and can be interrupted."""

    def __init__(self) -> None:
        self.captioned: list[str] = []
        self.loaded: list[str] = []
        self.break_at: str | None = None
        self.broken: set[str] = set()

    def load(self, model: str, **_: Any) -> SimpleNamespace:
        folder = Path(model)
        self.loaded.append(folder.name)
        if (folder / "model.safetensors").read_text() == "damaged":
            raise CheckpointError(f"{folder}: damaged")
        return SimpleNamespace(name=folder.name)

    def generate(
        self, captioner: SimpleNamespace, data: CaptionData, **_: Any
    ) -> tuple[dict[str, str], list[ImageError]]:
        ids = [image.image_id for image in data.images]
        if self.break_at in ids:
            raise KeyboardInterrupt
        self.captioned += [f"{captioner.name} {image}" for image in ids]
        return {i: f"{captioner.name} says {i}" for i in ids if i not in self.broken}, [
            ImageError(i, "broken") for i in ids if i in self.broken
        ]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    out = Models()
    monkeypatch.setattr(module.Captioner, "from_pretrained", out.load)
    monkeypatch.setattr(module, "generate", out.generate)
    monkeypatch.setattr(module, "SAVE_EVERY", 4)
    return out


@pytest.fixture
def contestants(tmp_path: Path) -> list[Contestant]:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name)
    return [Contestant(name, tmp_path / name) for name in "ab"]


DATA = CaptionData(
    "toys", "jsonl", tuple(CaptionedImage(str(n), Path(f"{n}.jpg"), "dev", ("a dog",)) for n in range(10))
)


def again(
    contestants: list[Contestant], folder: Path, listener: Listener | None = None, **settings: Any
) -> GeneratedCaptions:
    fresh = [Contestant(one.name, one.folder) for one in contestants]
    return caption_all(
        fresh, DATA, cache=BenchmarkCache(folder), batch_size=2, device="cpu", listener=listener, **settings
    )


def test_an_interrupted_captioning_resumes(models: Models, contestants: list[Contestant], tmp_path: Path) -> None:
    models.break_at = "8"
    with pytest.raises(KeyboardInterrupt):
        again(contestants, tmp_path / "cache")
    assert models.captioned == [f"a {n}" for n in range(8)]
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".json"]
    models.break_at, models.captioned = None, []
    notes: list[str] = []
    steps: list[tuple[str, int, int | None]] = []
    generated = again(contestants, tmp_path / "cache", Listener(note=notes.append))
    assert models.captioned == ["a 8", "a 9", *(f"b {n}" for n in range(10))]
    assert generated.captions == {name: {str(n): f"{name} says {n}" for n in range(10)} for name in "ab"}
    assert notes == [f"a: 8 captions are used again from {tmp_path / 'cache'}"]
    models.loaded, models.captioned = [], []
    assert (
        again(contestants, tmp_path / "cache", Listener(progress=lambda *step: steps.append(step))).captions
        == generated.captions
    )
    assert models.loaded == models.captioned == []


def test_another_model_or_search_captions_again(models: Models, contestants: list[Contestant], tmp_path: Path) -> None:
    again(contestants, tmp_path / "cache")
    models.captioned = []
    (contestants[0].folder / "config.json").write_text("{}")
    again(contestants, tmp_path / "cache")
    assert models.captioned == [f"a {n}" for n in range(10)]
    models.captioned = []
    again(contestants, tmp_path / "cache", search={"width": 1})
    assert len(models.captioned) == 20


def test_a_damaged_model_and_a_broken_image_are_left_out(
    models: Models, contestants: list[Contestant], tmp_path: Path
) -> None:
    (contestants[0].folder / "model.safetensors").write_text("damaged")
    models.broken = {"3"}
    failed: list[str] = []
    generated = again(contestants, tmp_path / "cache", Listener(failed=failed.append))
    assert list(generated.captions) == ["b"] and len(generated.captions["b"]) == 9
    assert failed == [f"{contestants[0].folder}: damaged", "3: broken"]
    with pytest.raises(EvaluationError, match="no model is left to compare"):
        again(contestants[:1], tmp_path / "cache")
    with pytest.raises(ConfigError, match="device 'warp'"):
        caption_all(contestants, DATA, cache=BenchmarkCache(tmp_path), device="warp")


def test_given_captions_are_checked_before_models_caption(
    models: Models, contestants: list[Contestant], tmp_path: Path
) -> None:
    events: list[str] = []
    listener = Listener(lambda title, *_: events.append(title), failed=events.append)
    wrong, part = GivenCaptions("w", Path("w.json"), {"x": "a"}), GivenCaptions("p", Path("p.json"), {"1": "A dog."})
    cache = BenchmarkCache(tmp_path / "cache")
    generated = caption_all(
        [contestants[0], wrong, part], DATA, cache=cache, batch_size=2, device="cpu", listener=listener
    )
    assert list(generated.captions) == ["a", "p"] and generated.given == ["p"]
    assert generated.captions["p"] == {"1": "A dog."} and len(generated.captions["a"]) == 10
    assert events[0].startswith("w.json: no caption is of an image of toys")
    assert events[-1].startswith("p.json: 9 of 10 images have no caption")
    assert len(list(cache.folder.iterdir())) == 1  # the captions of the model


def test_models_of_one_name_are_named_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("store", "store.names"):
        monkeypatch.setattr(f"captioner.{name}.read_config", lambda folder, kind="": {})
    folders = [tmp_path / "x" / "mine", tmp_path / "y" / "mine" / "best", tmp_path / "runs" / "best"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
    assert [one.name for one in find(folders, print)] == [str(folders[0]), str(folders[1]), "runs"]
    assert [one.name for one in find([folders[0], Contestant("mine", folders[2])], print)] == [str(folders[0]), "mine"]
    monkeypatch.chdir(tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"another model is named 'mine' too; .*NAME="):
        find(["mine", Contestant("mine", folders[2])], print)
    assert [one.name for one in find(["./mine", Contestant("mine", folders[2])], print)] == ["./mine", "mine"]


def test_models_that_cannot_be_found_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    failed: list[str] = []
    with pytest.raises(CheckpointError, match="no model is left to compare"):
        find([tmp_path / "empty", "no_such_model"], failed.append)
    assert len(failed) == 2 and "not a model folder" in failed[0] and "'no_such_model' does not exist" in failed[1]
