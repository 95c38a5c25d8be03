from __future__ import annotations

import json
from pathlib import Path

import pytest

METRICS = ("--metrics", "BLEU,CIDEr")


@pytest.fixture
def features(model: Path, dataset: Path, tmp_path: Path) -> Path:
    from captioner.checkpoint import load_model
    from captioner.data.annotations import read_captions
    from captioner.data.features import build_store

    pictures = [(photo.image_id, photo.path) for photo in read_captions(dataset).photos if photo.split == "val"]
    return build_store(tmp_path / "features", load_model(model).encoder, pictures, workers=1).store.folder


def test_table_and_files(run, model: Path, dataset: Path, tmp_path: Path) -> None:
    captions, scores = tmp_path / "captions.json", tmp_path / "scores.json"
    result = run("evaluate", model, dataset, *METRICS, "--output-captions", captions, "--output-scores", scores)
    assert (result.code, result.err) == (0, "")
    written = json.loads(scores.read_text())
    assert list(written["scores"]) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr"]
    assert written["images"] == 3 and written["unreadable"] == []
    for name, value in written["scores"].items():
        (line,) = (line for line in result.lines if name in line)
        assert f" {100 * value:.1f} " in line
    results = json.loads(captions.read_text())
    assert {entry["image_id"] for entry in results} == {"red.jpg", "green.png", "blue.jpg"}

    from pycocoevalcap.bleu.bleu import Bleu

    rows = {row["image"]: row["captions"] for row in map(json.loads, dataset.read_text().splitlines()) if row["split"] == "val"}
    expected, _ = Bleu(4).compute_score(rows, {entry["image_id"]: [entry["caption"]] for entry in results}, verbose=0)
    assert [written["scores"][f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected)


def test_features_give_what_pictures_give(run, model: Path, dataset: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In 32 bits all the way, as the store was made, so that rounding changes no caption.
    import torch

    monkeypatch.setattr("captioner.encoders.base.fast_dtype", lambda device: torch.float32)
    plain = run("evaluate", model, dataset, *METRICS, "--json", "--beam", 1)
    stored = run("evaluate", model, dataset, *METRICS, "--json", "--beam", 1, "--features", features)
    assert (plain.code, stored.code) == (0, 0)
    assert json.loads(plain.out)["search"]["width"] == 1
    assert json.loads(stored.out)["scores"] == pytest.approx(json.loads(plain.out)["scores"], abs=1e-6)


def test_features_of_another_encoder_are_refused(run, model: Path, dataset: Path, features: Path) -> None:
    index = features / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"fingerprint": "other"}))
    result = run("evaluate", model, dataset, *METRICS, "--features", features)
    assert (result.code, result.out) == (1, "")
    assert "made by another encoder" in result.err


def test_features_fit_at_any_precision(run, model: Path, dataset: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("captioner.encoders.base.fast_dtype", lambda device: torch.bfloat16)
    assert run("evaluate", model, dataset, "--metrics", "BLEU", "--features", features).code == 0


def test_an_unreadable_picture_is_reported(run, model: Path, dataset: Path) -> None:
    (dataset.parent / "blue.jpg").unlink()
    result = run("evaluate", model, dataset, *METRICS, "--json")
    assert result.code == 1
    assert f"error: {dataset.parent / 'blue.jpg'}: " in result.err
    assert json.loads(result.out)["images"] == 2


def test_an_unknown_metric_is_refused_before_captioning(run, model: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.evaluation.evaluate.generate", lambda *args, **kwargs: pytest.fail("captioned all the same"))
    result = run("evaluate", model, dataset, "--metrics", "BLUE")
    assert result.code == 1
    assert "BLUE" in result.err and "BLEU" in result.err


def test_an_unknown_split_names_those_there_are(run, model: Path, dataset: Path) -> None:
    result = run("evaluate", model, dataset, "--split", "test")
    assert result.code == 1
    assert "val (3), train (1)" in result.err


def test_translations_are_scored_by_sacrebleu(run, translator: Path, parallel: Path, tmp_path: Path) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, scores = tmp_path / "texts.json", tmp_path / "scores.json"
    result = run("evaluate", translator, parallel, "--device", "cpu", "--output-captions", texts, "--output-scores", scores)
    assert (result.code, result.err) == (0, "")
    found, written = json.loads(texts.read_text()), json.loads(scores.read_text())
    for key, language in (("source", "en"), ("reference", "de")):
        assert [entry[key] for entry in found] == (parallel / f"val.{language}").read_text(encoding="utf-8").splitlines()

    from captioner import Translator

    translations = Translator.from_pretrained(translator, device="cpu")([entry["source"] for entry in found])
    assert [entry["translation"] for entry in found] == [translation.text for translation in translations]
    corpus = [entry["translation"] for entry in found], [[entry["reference"] for entry in found]]
    bleu, chrf = sacrebleu.corpus_bleu(*corpus).score, sacrebleu.corpus_chrf(*corpus).score
    assert written["scores"] == pytest.approx({"BLEU": bleu / 100, "chrF": chrf / 100}) and chrf > 0
    assert (written["sentences"], written["split"], written["languages"]) == (4, "val", ["en", "de"])
    assert written["model"] == str(translator) and written["search"]["width"] == 2
    for name, value in (("BLEU", bleu), ("chrF", chrf)):
        (line,) = (line for line in result.lines if name in line)
        assert f" {value:.1f} " in line
    again = run("evaluate", translator, parallel, "--split", "train", "--beam", 1, "--device", "cpu", "--json")
    assert json.loads(again.out)["sentences"] == 40 and json.loads(again.out)["search"]["width"] == 1


def test_a_shipped_translator_is_found_by_its_name(run, shipped_translator: str, parallel: Path) -> None:
    pytest.importorskip("sacrebleu")
    assert json.loads(run("evaluate", shipped_translator, parallel, "--json", "--device", "cpu").out)["model"] == shipped_translator


def test_a_pair_with_an_empty_sentence_is_reported(run, translator: Path, parallel: Path) -> None:
    pytest.importorskip("sacrebleu")
    for language, text in (("en", "A dog runs."), ("de", "")):
        with open(parallel / f"val.{language}", "a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    result = run("evaluate", translator, parallel, "--json", "--device", "cpu")
    assert result.code == 1 and result.err == f"error: {parallel / 'val.de'}:5: the line is empty\n"
    assert json.loads(result.out)["sentences"] == 4 and len(json.loads(result.out)["unreadable"]) == 1


@pytest.mark.parametrize("option", [("--metrics", "BLEU"), ("--features", "store"), ("--restval",), ("--images", ".")])
def test_what_is_for_captioners_is_refused_for_translators(run, translator: Path, parallel: Path, option: tuple[str, ...]) -> None:
    result = run("evaluate", translator, parallel, *option)
    assert (result.code, result.out) == (2, "") and option[0] in result.err


def test_a_missing_split_names_the_files_there_are(run, translator: Path, parallel: Path) -> None:
    result = run("evaluate", translator, parallel, "--split", "test", "--device", "cpu")
    assert (result.code, result.out) == (1, "") and "test.en" in result.err and "val.en" in result.err
