"""Training and scoring translators, on a language that reverses the order of the English words."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from captioner.errors import AnnotationError, CheckpointError, ConfigError, EvaluationError
from captioner.training import loop
from captioner.training.state import STATE, RunProgress, save_state
from captioner.translation import bleu
from captioner.translation.bleu import evaluate_translation, measure, score_intervals, score_translations
from captioner.translation.model import TranslationModel, load_translator
from captioner.translation.pairs import read_parallel
from captioner.translation.train import load_translate_config, train_translation
from captioner.translation.translator import Translator
from tests.torchrun import assert_near, finish, start, train
from tests.training.conftest import listening

WORDS = {"one": "Eins", "two": "Zwei", "dogs": "Hunde", "run": "laufen", "fast": "schnell", "home": "heim"}


class Exact:
    """The share of texts that equal their reference, in the form of a metric of sacrebleu."""

    def corpus_score(self, texts: list[str], references: list[list[str]]) -> Exact:
        counts = self._extract_corpus_statistics(texts, references)
        return self._compute_score_from_stats([sum(column) for column in zip(*counts, strict=True)])

    def _extract_corpus_statistics(self, texts: list[str], references: list[list[str]]) -> list[list[int]]:
        return [[text == reference, 1] for text, reference in zip(texts, references[0], strict=True)]

    def _compute_score_from_stats(self, counts: list[int]) -> Exact:
        self.score = 100 * counts[0] / counts[1]
        return self

    def get_signature(self) -> str:
        return "exact"


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score by :class:`Exact`, in case sacrebleu is not installed."""
    monkeypatch.setattr(bleu, "_metrics", lambda: {"BLEU": Exact})


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A data set and a training config for it, in YAML."""
    draw, folder = random.Random(0), tmp_path / "data"
    folder.mkdir()
    for split, number in (("train", 160), ("val", 20)):
        lines = [draw.choices(list(WORDS), k=draw.randint(1, 4)) for _ in range(number)]
        (folder / f"{split}.en").write_text("".join(" ".join(line) + ".\n" for line in lines), encoding="utf-8")
        (folder / f"{split}.xx").write_text(
            "".join(" ".join(WORDS[word] for word in reversed(line)) + "!\n" for line in lines), encoding="utf-8"
        )
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
data: {{path: {folder}, merges: 40}}
model:
  target: xx
  encoder: {{name: sequence, embedding: 24, hidden: 16, dropout: 0.1}}
  decoder: {{name: show_attend_tell, embedding: 24, hidden: 32, attention: 16, values: 24, dropout: 0.1}}
objective: {{label_smoothing: 0.05}}
optimiser: {{learning_rate: 0.02}}
average: 0.9
batch_tokens: 100
epochs: 3
device: cpu
precision: 32-true
""",
        encoding="utf-8",
    )
    return path


def test_it_learns_to_translate(tiny: Path, tmp_path: Path, exact: None) -> None:
    best = train_translation(tiny, ["epochs=25", "evaluation.every=5"], output=tmp_path / "run")
    translator = Translator.from_pretrained(best, device="cpu")
    found, translations = evaluate_translation(translator, tmp_path / "data")
    score = found.scores["BLEU"]
    assert score.value > 0.7, [translation.text for translation in translations]
    text = read_parallel(tmp_path / "data", "val", source="en", target="xx")
    assert score.value == sum(
        translation.text == pair.target for translation, pair in zip(translations, text.pairs, strict=True)
    ) / len(text.pairs)
    assert evaluate_translation(translator, text)[0] == found
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10]) and any("dev" in record for record in records)
    about = json.loads((best / "config.json").read_text())["about"]
    assert about["pairs"] == 160 and about["dev_bleu"] > 0.7 and about["recipe"]["model"]["target"] == "xx"
    (score,) = ModelCard.load(best / "README.md").data.eval_results
    assert (score.metric_type, score.metric_value) == ("bleu", round(100 * about["dev_bleu"], 1))


FAMILIES: dict[str, dict[str, Any]] = {
    "attention": {},
    "seq2seq": {
        "model.encoder": {"name": "sequence", "direction": "backward", "embedding": 24, "hidden": 16, "dropout": 0.1},
        "model.decoder": {"name": "show_tell", "from_state": True, "embedding": 24, "hidden": 16, "dropout": 0.1},
    },
    "hard attention": {
        "model.decoder": {
            "name": "show_attend_tell",
            "embedding": 8,
            "hidden": 8,
            "attention": 8,
            "values": 8,
            "kind": "hard",
        }
    },
    "transformer": {
        "model.encoder": {"name": "words", "embedding": 16},
        "model.refiner": {
            "name": "transformer",
            "geometry": False,
            "order": True,
            "blocks": 1,
            "size": 16,
            "heads": 2,
            "feed_forward": 16,
        },
        "model.decoder": {"name": "transformer", "blocks": 1, "size": 16, "heads": 2, "feed_forward": 16},
    },
    "transformer_xl": {
        "data.context": 2,
        "model.encoder": {"name": "words", "embedding": 16},
        "model.refiner": {
            "name": "transformer",
            "geometry": False,
            "relative": True,
            "axes": 1,
            "blocks": 1,
            "size": 16,
            "heads": 2,
            "feed_forward": 16,
        },
        "model.decoder": {
            "name": "transformer_xl",
            "blocks": 1,
            "size": 16,
            "heads": 2,
            "feed_forward": 16,
        },
    },
}


def changes_of(family: str) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in FAMILIES[family].items()]


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[] if name in ("attention", "hard attention") else [pytest.mark.slow])
        for name in FAMILIES
    ],
)
def test_killed_within_an_epoch_and_resumed_ends_with_the_same_bits(
    tiny: Path, tmp_path: Path, exact: None, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    changes = [
        "epochs=2",
        "save_minutes=1e-9",
        *changes_of(family),
    ]

    class Killed(BaseException):
        pass

    def save_then_die(path: Path, progress: RunProgress, *rest: Any) -> None:
        save_state(path, progress, *rest)
        if progress.batch == 3 and progress.epoch == 1:
            raise Killed

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_translation(tiny, changes, output=whole)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "save_state", save_then_die)
        train_translation(tiny, changes, output=broken)
    assert not (broken / "last").exists()
    assert train_translation(tiny, changes, output=broken, resume=True) == broken / "best"
    for file in (STATE, "last/model.safetensors", "best/model.safetensors"):
        first, second = load_file(whole / file), load_file(broken / file)
        assert first.keys() == second.keys()
        assert all(
            torch.equal(tensor.view(torch.uint8), second[name].view(torch.uint8))
            for name, tensor in first.items()
            if tensor.dim()
        )


def test_a_run_is_not_overwritten(tiny: Path, tmp_path: Path, exact: None) -> None:
    train_translation(tiny, ["epochs=1"], output=tmp_path / "run")
    with pytest.raises(CheckpointError, match="--resume"):
        train_translation(tiny, ["epochs=1"], output=tmp_path / "run")


def test_pieces_are_from_the_training_split_only(tiny: Path, tmp_path: Path, exact: None) -> None:
    for language in ("en", "xx"):
        with open(tmp_path / "data" / f"val.{language}", "a", encoding="utf-8") as file:
            file.write("zyzzyva zyzzyva\n" * 500)
    model = load_translator(train_translation(tiny, ["epochs=1"], output=tmp_path / "run"))
    assert not any("zy" in piece for vocabulary in (model.source, model.target) for piece in vocabulary.pieces)
    assert any("dogs" in piece for piece in model.source.pieces) and any(
        "Hunde" in piece for piece in model.target.pieces
    )


def test_what_is_left_out_is_reported(tiny: Path, tmp_path: Path, exact: None) -> None:
    for language, texts in (("en", ["", "dogs " * 70, "home"]), ("xx", ["Eins", "Hunde", "heim " * 70])):
        with open(tmp_path / "data" / f"train.{language}", "a", encoding="utf-8") as file:
            file.write("".join(f"{text}\n" for text in texts))
    events, heard = listening()
    best = train_translation(
        tiny, ["epochs=1", "data.max_pieces=30", "model.max_pieces=60"], output=tmp_path / "run", events=events
    )
    output = "\n".join(heard)
    assert "train.en:161: the line is empty" in output and "2 pairs of more than 30 pieces are left out" in output
    assert json.loads((best / "config.json").read_text())["about"]["pairs"] == 160
    # A source that the model would cut is left out as well, although the rest of it is short enough.
    train_translation(tiny, ["epochs=1", "model.max_pieces=40"], output=tmp_path / "other", events=events)
    assert "2 pairs of more than 40 pieces" in "".join(heard)
    with pytest.raises(AnnotationError, match=r"every pair has more than 1 pieces; raise data\.max_pieces"):
        train_translation(tiny, ["data.max_pieces=1"], output=tmp_path / "third")


def test_scores_are_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, references = (
        ["Ein Hund läuft im Schnee.", "Zwei Männer sitzen am Tisch ."],
        ["Ein Hund läuft durch den Schnee.", "Zwei Männer sitzen am Tisch."],
    )
    found = score_translations(texts, references)
    assert found["BLEU"] == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score / 100)
    assert found["chrF"] == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score / 100)
    assert score_translations(references, references)["BLEU"] == pytest.approx(1.0)


def test_intervals_agree_with_sacrebleus() -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    draw = random.Random(1)
    references = [" ".join(draw.choices(list(WORDS.values()), k=7)) for _ in range(60)]
    texts = [" ".join(draw.choices(reference.split(), k=7)) for reference in references]
    found = score_intervals(texts, references)
    for name, kind in (("BLEU", metrics.BLEU), ("chrF", metrics.CHRF)):
        metric, score = kind(), found.scores[name]
        plain = metric.corpus_score(texts, [references])
        assert 100 * score.value == pytest.approx(plain.score) and found.signatures[name] == str(metric.get_signature())
        theirs = metric.corpus_score(texts, [references], n_bootstrap=1000)
        assert 50 * (score.low + score.high) == pytest.approx(theirs._mean, abs=0.5)
        assert 50 * (score.high - score.low) == pytest.approx(theirs._ci, rel=0.15)
    few = [0, 5, 17]
    for part, kind in zip(measure(texts, references), (metrics.BLEU, metrics.CHRF), strict=True):
        theirs = kind().corpus_score([texts[i] for i in few], [[references[i] for i in few]])
        assert [100 * value for value in part.values(np.array(few)).values()] == pytest.approx([theirs.score])


def test_hopeless_translations_have_an_interval_too() -> None:
    pytest.importorskip("sacrebleu")
    scores = score_intervals(["x", ""], ["Ein Hund.", "Zwei Hunde."]).scores
    assert (scores["BLEU"].low, scores["BLEU"].value, scores["BLEU"].high) == (0, 0, 0)


def test_a_missing_scorer_is_reported_before_any_work(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(EvaluationError, match=r"pip install 'captioner\[translate\]'"):
        train_translation(tiny, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["multi30k_attention", "multi30k_transformer", "multi30k_transformer_xl"]
)  # seq2seq does not ship
def test_shipped_translators_have_at_most_15_megabytes(name: str) -> None:
    config = load_translate_config(name)
    pieces = type("Pieces", (), {"__len__": lambda self: 4 + 256 + config.data.merges})()
    with torch.device("meta"):
        model = TranslationModel(config.model, pieces, pieces)
    megabytes = 2 * sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert megabytes < 15
    assert config.objective.doubly_stochastic == 0 and config.evaluation.search.max_words > 100


def test_recipes_and_changes(tmp_path: Path) -> None:
    changes = ["optimiser.learning_rate=1e-4", "evaluation.search.width=2", "objective.label_smoothing=0.2"]
    config = load_translate_config("multi30k_attention", changes, tmp_path)
    assert (config.optimiser.learning_rate, config.output) == (1e-4, tmp_path)
    # A group that is only partly given keeps the defaults for text, not those for pictures.
    assert (config.evaluation.search.width, config.evaluation.search.max_words, config.objective.doubly_stochastic) == (
        2,
        120,
        0.0,
    )
    with pytest.raises(ConfigError, match="Did you mean 'multi30k_attention'"):
        load_translate_config("multi30k_atention")
    with pytest.raises(ConfigError, match="Did you mean 'merges'"):
        load_translate_config("multi30k_attention", ["data.merge=3"])
    with pytest.raises(ConfigError, match=r"data\.path|data"):
        (tmp_path / "empty.yaml").write_text("{}\n")
        load_translate_config(tmp_path / "empty.yaml")


def test_context_needs_relative_positions_and_no_sampling(tiny: Path, tmp_path: Path, exact: None) -> None:
    with pytest.raises(ConfigError, match=r"context: .* no relative positions; .* multi30k_transformer_xl"):
        train_translation(tiny, ["data.context=2", *changes_of("transformer")[:2]], output=tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be combined with objective\.scheduled_sampling"):
        load_translate_config(tiny, ["data.context=2", "objective.scheduled_sampling=0.2"])


def test_a_model_learns_to_use_the_previous_line(tiny: Path, tmp_path: Path, exact: None) -> None:
    """A language that answers each line with the words of the line before; "home" alone begins a text."""
    draw, folder = random.Random(1), tmp_path / "data"
    for split, number in (("train", 400), ("val", 40)):
        lines = [draw.choice(list(WORDS)) for _ in range(number)]
        (folder / f"{split}.en").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        answers = [WORDS["home"], *(WORDS[line] for line in lines[:-1])]
        (folder / f"{split}.xx").write_text("".join(f"{line}\n" for line in answers), encoding="utf-8")
    changes = [*changes_of("transformer_xl"), "data.context=1", "average=0", "epochs=12", "evaluation.every=12"]
    best = train_translation(tiny, changes, output=tmp_path / "run")
    translator = Translator.from_pretrained(best, device="cpu")
    text = read_parallel(folder, "val", source="en", target="xx")
    sources, targets = [pair.source for pair in text.pairs], [pair.target for pair in text.pairs]
    right = []
    for context in (1, 0):
        found = translator(sources, context=context)
        right.append(sum(one.text == target for one, target in zip(found, targets, strict=True)))
    assert right[0] > 35 and right[1] < 20, right
    assert evaluate_translation(translator, text, context=1)[0].scores["BLEU"].value >= right[0] / 40
    about = json.loads((best / "config.json").read_text())["about"]
    assert about["dev_bleu"] > 0.8 and about["context"] == 1


@pytest.mark.slow
def test_two_processes_train_as_one(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    one, two = tmp_path / "one", tmp_path / "two"
    changes = ["model.encoder.dropout=0", "model.decoder.dropout=0", "epochs=2"]
    _, err = finish(start(2, *train(tiny, changes, two)))
    assert "2 processes" in err
    train_translation(tiny, changes, output=one)
    assert_near(one, two)
