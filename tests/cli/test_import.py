"""A decoder from an own file trains and captions, and a model's folder never runs code."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from captioner.benchmark.cost import time_models
from captioner.benchmark.worker import TimingJob
from captioner.data.annotations import FORMATS
from captioner.decoders import DECODERS, Decoder
from captioner.errors import ConfigError
from captioner.model import CaptionModel, ModelConfig
from captioner.model.checkpoint import save_model
from captioner.registry import Registry, import_code, imported_code
from captioner.text.vocabulary import Vocabulary
from tests.builders import build_memory, build_tokens
from tests.cli.conftest import WORDS, Run

GRU = """
import torch
from torch import nn

from captioner.decoders import DECODERS, Decoder, DecoderConfig, State, Step


class Config(DecoderConfig):
    hidden: int = 6


@DECODERS.register("gru")
class GRU(Decoder):
    Config = Config
    attends = False

    def __init__(self, config, *, features, words):
        super().__init__(config, features=features, words=words)
        self.first = nn.Linear(features, config.hidden)
        self.embedding = nn.Embedding(words, config.hidden)
        self.cell = nn.GRUCell(config.hidden, config.hidden)
        self.output = nn.Linear(config.hidden, words)

    def start(self, memory):
        return State({"h": torch.tanh(self.first(memory.pooled)).unsqueeze(1)})

    def step(self, tokens, state):
        x, h = self.embedding(tokens), state.hypotheses["h"]
        h = self.cell(x.flatten(0, 1), h.flatten(0, 1)).unflatten(0, tokens.shape)
        return Step(self.output(h), None, State({"h": h}))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A file with a decoder, which is forgotten afterwards."""
    path = tmp_path / "mine.py"
    path.write_text(GRU, encoding="utf-8")
    yield path
    forget()


def forget() -> None:
    """Undo the import, as a new process would."""
    DECODERS._entries.pop("gru", None)
    for name in [name for name in sys.modules if name.startswith("mine_")]:
        del sys.modules[name]


def test_start_and_step_are_enough_to_train(mine: Path) -> None:
    import_code(str(mine))
    torch.manual_seed(0)
    decoder: Decoder = DECODERS["gru"](DECODERS["gru"].Config(), features=8, words=13)
    memory, tokens = build_memory().to(dtype=torch.float32), build_tokens()
    optimiser, losses = torch.optim.Adam(decoder.parameters(), lr=0.05), []
    for _ in range(30):
        logits = decoder(memory, tokens).logits
        loss = torch.nn.functional.cross_entropy(logits, build_tokens(seed=5)[tokens != 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_model_with_it_captions_once_its_file_is_imported(mine: Path, run: Run, images: Path) -> None:
    import_code(str(mine))
    config = ModelConfig(
        encoder={"name": "grid", "backbone": "test_efficientnet", "weights": "random", "size": 64},
        decoder={"name": "gru"},
        search={"width": 2, "max_words": 4},  # type: ignore[arg-type]
    )
    made = CaptionModel.build(config, Vocabulary(WORDS))
    made.tuned_stages = made.encoder.stages  # its weights are random
    folder = save_model(mine.parent / "model", made)
    forget()

    without = run("caption", images / "red.jpg", "--model", folder)
    assert without.code == 1 and "decoder 'gru' does not exist" in without.err
    assert "captioner --import FILE.py" in without.err

    found = run("--import", mine, "caption", images / "red.jpg", "--model", folder)
    assert (found.code, found.err) == (0, "") and re.fullmatch(r"[A-Z][a-z ]*\.", found.lines[0])

    assert str(mine) in imported_code()  # the workers of a benchmark import it too
    job = TimingJob(str(folder), "cpu", {}, [str(images / "red.jpg")], [1], (str(mine),))
    costs, errors = time_models({"gru": job}, rounds=1)
    assert not errors and list(costs) == ["gru"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def", "SyntaxError"),
        ("raise RuntimeError('not today')", "RuntimeError: not today"),
        (None, "there is no such file"),
    ],
)
def test_a_file_that_cannot_be_imported_is_an_error(tmp_path: Path, run: Run, text: str | None, reason: str) -> None:
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    found = run("recipes", "--import", path)
    assert found.code == 1 and len(found.err.splitlines()) == 1
    assert f"--import {path}: " in found.err and reason in found.err
    assert run("recipes", "--import", "no.such.module").code == 1


def test_an_error_in_an_own_file_names_its_line(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FORMATS, "_entries", dict(FORMATS._entries))
    monkeypatch.setattr("captioner.registry._imported", [])
    path, data = tmp_path / "mine.py", tmp_path / "captions.mine"
    path.write_text(
        "from captioner.data.annotations import reader\n"
        "@reader('mine', accepts=lambda source: True)\n"
        "def mine(source):\n"
        "    {}['image']\n",
        encoding="utf-8",
    )
    data.write_text("a dog\n", encoding="utf-8")
    found = run("--import", path, "data", "inspect", data)
    forget()
    assert found.code == 1
    assert found.err.strip().startswith(f"error: {path}, line 4: KeyError: 'image'; the same command with --verbose")


def test_an_installed_package_announces_its_families(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("outside", "tests.cli.outside", "captioner.things")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == "captioner.things" else [])
    things: Registry[int] = Registry("thing", group="captioner.things")
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: things.register(self.name)(7))
    assert "outside" in things and list(things) == ["outside"]
    assert things["outside"] == 7
    with pytest.raises(ConfigError, match=r"Did you mean 'outside'\?"):
        things["outsid"]


def test_a_recipe_lists_the_files_to_import(mine: Path, run: Run, dataset: Path) -> None:
    recipe, base = mine.with_name("mine.yaml"), mine.with_name("base.yaml")
    own, other = dataset.with_name("own.csv"), mine.with_name("other.py")
    rows = [f"{name},a dog and a ball" for name in ("red.jpg", "green.png", "blue.jpg")]
    own.write_text("\n".join(["image,caption", *rows]), encoding="utf-8")
    base.write_text("import: [mine.py]\n", encoding="utf-8")
    recipe.write_text(
        f"""
base: base.yaml
import: other.py
data: {{path: {own}, min_count: 1}}
model: {{encoder: {{name: grid, backbone: test_efficientnet, weights: random, size: 64}}, decoder: {{name: gru}}}}
epochs: 1
device: cpu
""",
        encoding="utf-8",
    )
    missing = run("train", recipe, "--output", mine.parent / "run")
    assert missing.code == 1 and missing.after.startswith(f"error: {recipe}: import {other}: there is no such file")
    other.write_text("", encoding="utf-8")
    trained = run("train", recipe, "--output", mine.parent / "run")
    assert trained.code == 0, trained.err
    for file in ("best/config.json", "last/config.json", "config.json"):
        assert "mine.py" not in (mine.parent / "run" / file).read_text(encoding="utf-8")

    printed = run("recipes", recipe)
    assert printed.lines[0] == f'import: ["{mine}", "{other}"]'
    assert json.loads(run("recipes", recipe, "--json").out)["import"] == [str(mine), str(other)]
    (mine.parent / "elsewhere").mkdir()
    (mine.parent / "elsewhere" / "whole.yaml").write_text(printed.out, encoding="utf-8")
    forget()
    assert run("recipes", mine.parent / "elsewhere" / "whole.yaml").out == printed.out
    forget()
    model = run("caption", dataset.with_name("red.jpg"), "--model", mine.parent / "run" / "best")
    assert model.code == 1 and "decoder 'gru' does not exist" in model.err and "--import FILE.py" in model.err


@pytest.mark.parametrize("value", ["3", "[1]", "{a: b}"])
def test_an_import_needs_a_path(run: Run, tmp_path: Path, value: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"import: {value}\nbase: flickr8k_show_tell\n", encoding="utf-8")
    found = run("recipes", tmp_path / "mine.yaml")
    assert found.code == 1 and "mine.yaml: import: give the path of a Python file or a list of paths" in found.err
