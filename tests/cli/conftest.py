from __future__ import annotations

import io
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from captioner.cli import main

WORDS = ["a", "dog", "runs", "on", "grass", "red", "ball"]
MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "gif": b"GIF8", "html": b"<!doctype html>", "json": b"{"}
COLOURS = {"red.jpg": (200, 30, 30), "green.png": (30, 200, 30), "blue.jpg": (30, 30, 200)}


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def after(self) -> str:
        """Stderr after the first line, with which a long command begins."""
        return self.err.partition("\n")[2]


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line as the shell would: its exit code, stdout and stderr.

    A single argument is a whole line.
    """

    def call(*arguments: object, stdin: str | bytes = "") -> Result:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        words = shlex.split(str(arguments[0])) if len(arguments) == 1 else [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        with pytest.raises(SystemExit) as exit:
            main(words)
        out, err = capsys.readouterr()
        return Result(exit.value.code, out, err)  # type: ignore[arg-type]

    return call


@pytest.fixture(scope="session")
def remembering() -> Callable[..., list[dict[str, list[str]]]]:
    """The tokeniser, which calls Java only for captions that no earlier test had, as Java starts slowly."""
    from captioner.evaluation.java import ptb_tokenize

    known: dict[str, str] = {}

    def tokenize(*groups: Mapping[str, Sequence[str]]) -> list[dict[str, list[str]]]:
        captions = {caption for group in groups for captions in group.values() for caption in captions}
        if new := {caption: [caption] for caption in captions - known.keys()}:
            known.update({caption: tokens for caption, (tokens,) in ptb_tokenize(new)[0].items()})
        return [{image: [known[each] for each in captions] for image, captions in group.items()} for group in groups]

    return tokenize


@pytest.fixture
def tokeniser(remembering: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """See :func:`remembering`."""
    for module in ("metrics", "sums"):
        monkeypatch.setattr(f"captioner.evaluation.{module}.ptb_tokenize", remembering)


def tiny_model(
    folder: Path, decoder: str = "show_tell", *, words: Sequence[str] = WORDS, seed: int = 0, **search: int
) -> Path:
    """Save a tiny model with random weights."""
    import torch

    from captioner.model import CaptionModel, ModelConfig
    from captioner.model.checkpoint import save_model
    from captioner.text.vocabulary import Vocabulary

    attention = {"attention": 8, "values": 8} if decoder == "show_attend_tell" else {}
    config = ModelConfig(
        encoder={"name": "grid", "backbone": "test_efficientnet", "weights": "random", "size": 64},
        decoder={"name": decoder, "embedding": 8, "hidden": 8, **attention},
        search={"width": 3, "max_words": 6, "min_words": 2, **search},  # type: ignore[arg-type]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = CaptionModel.build(config, Vocabulary(list(words)))
        if decoder == "show_tell":
            for weight in built.decoder.parameters():
                torch.nn.init.normal_(weight)
    built.tuned_stages = built.encoder.stages  # so that its random weights are saved
    return save_model(folder, built)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that attends."""
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", "show_attend_tell")


@pytest.fixture(scope="session")
def partner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that does not attend, with the vocabulary of the first in another order."""
    folder = tmp_path_factory.mktemp("models") / "partner"
    return tiny_model(folder, words=WORDS[::-1], seed=2, width=1, max_words=5)


@pytest.fixture(scope="session")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny translator from English to German with random weights."""
    from captioner.translation.model import save_translator
    from tests.translation.test_translator import build

    about = {"data": "multi30k/train", "pairs": 4, "dev_bleu": 0.123}
    return save_translator(tmp_path_factory.mktemp("models") / "translator_en_de", build(), about=about)


@pytest.fixture
def shipped_translator(translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the tiny translator, as the only shipped model."""
    shutil.copytree(translator, tmp_path / "program" / "assets" / "translator_en_de")
    monkeypatch.setattr("captioner.store.names.PACKAGE", tmp_path / "program" / "captioner")
    return "translator_en_de"


@pytest.fixture
def parallel(tmp_path: Path) -> Path:
    """A folder of sentences in two languages in the splits "train" and "val"."""
    from tests.translation.test_translator import SOURCE, TARGET

    folder = tmp_path / "multi30k"
    folder.mkdir()
    for split, number in (("train", 10), ("val", 1)):
        for language, lines in (("en", SOURCE), ("de", TARGET)):
            (folder / f"{split}.{language}").write_text(
                "".join(f"{line}\n" for line in lines * number), encoding="utf-8"
            )
    return folder


def results(path: Path, captions: Mapping[Any, str]) -> Path:
    """Write captions as a COCO results file."""
    path.write_text(json.dumps([{"image_id": image, "caption": caption} for image, caption in captions.items()]))
    return path


def bleu(dataset: Path, captions: Mapping[str, str]) -> tuple[list[float], dict[str, float]]:
    """Return BLEU-1 to 4 of captions in the split "val", and BLEU-2 of each, by pycocoevalcap."""
    from pycocoevalcap.bleu.bleu import Bleu

    read = map(json.loads, dataset.read_text().splitlines())
    rows = {row["image"]: row["captions"] for row in read if row["split"] == "val"}
    scores, each = Bleu(4).compute_score(rows, {image: [captions[image]] for image in rows}, verbose=0)
    return scores, dict(zip(rows, each[1], strict=True))


def paint(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        Image.linear_gradient("L").resize((80, 60)).convert("RGB").point(lambda v: v // 2).save(folder / name)
        Image.blend(Image.open(folder / name), Image.new("RGB", (80, 60), colour), 0.5).save(folder / name)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three good images, a broken one, a file that is not an image, and one more in a subfolder."""
    folder = tmp_path / "photos"
    paint(folder)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    (folder / "notes.txt").write_text("no image")
    (folder / "more").mkdir()
    (folder / "more" / "deep.jpg").write_bytes((folder / "red.jpg").read_bytes())
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A caption file for three good images in the split "val" and a missing one in "train"."""
    folder = tmp_path / "dataset"
    paint(folder)
    rows = [
        {"image": name, "captions": [f"a {Path(name).stem} dog runs on grass", "the dog runs"], "split": "val"}
        for name in sorted(COLOURS)
    ]
    rows.append({"image": "gone.jpg", "captions": ["a red ball on grass"], "split": "train"})
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
