from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Run, bleu, results

pytestmark = pytest.mark.usefixtures("tokeniser")

METRICS = ("--metrics", "BLEU,CIDEr")


@pytest.fixture
def features(model: Path, dataset: Path, tmp_path: Path) -> Path:
    from captioner.data.annotations import read_captions
    from captioner.features import build_store
    from captioner.model.checkpoint import load_model

    images = [(image.image_id, image.path) for image in read_captions(dataset).images if image.split == "val"]
    return build_store(tmp_path / "features", load_model(model).encoder, images, workers=1).store.folder


def test_table_and_files(run, model: Path, dataset: Path, tmp_path: Path) -> None:
    captions, scores = tmp_path / "captions.json", tmp_path / "scores.json"
    result = run("evaluate", model, dataset, *METRICS, "--output-captions", captions, "--output-scores", scores)
    assert result.code == 0
    first = f"evaluating {model} on {dataset}"
    assert result.err.splitlines() == [first, f"{captions}: 3 captions", f"{scores}: the scores"]
    written = json.loads(scores.read_text())
    assert list(written["scores"]) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr"]
    assert written["images"] == 3 and written["unreadable"] == []
    for name, value in written["scores"].items():
        (line,) = (line for line in result.lines if name in line)
        assert line.split() == [name, f"{100 * value:.1f}"]
    generated = {entry["image_id"]: entry["caption"] for entry in json.loads(captions.read_text())}
    assert set(generated) == {"red.jpg", "green.png", "blue.jpg"}
    expected, _ = bleu(dataset, generated)
    assert [written["scores"][f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected)


def test_features_give_the_scores_of_images(
    run, model: Path, dataset: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In 32 bits throughout, as the store was made, so that rounding changes no caption.
    import torch

    monkeypatch.setattr("captioner.encoders.encoder.fast_dtype", lambda device: torch.float32)
    plain = run("evaluate", model, dataset, *METRICS, "--json", "--beam", 1)
    stored = run("evaluate", model, dataset, *METRICS, "--json", "--beam", 1, "--features", features)
    assert (plain.code, stored.code) == (0, 0)
    assert json.loads(plain.out)["search"]["width"] == 1
    assert json.loads(stored.out)["scores"] == pytest.approx(json.loads(plain.out)["scores"], abs=1e-6)


def test_the_settings_of_the_search(
    run, model: Path, dataset: Path, translator: Path, parallel: Path, tmp_path: Path
) -> None:
    line = "--beam 1 --length-normalisation 0 --min-words 6 --max-words 6 --block-ngram 1 --device cpu --json"
    options = line.split()
    expected = {"width": 1, "length_normalisation": 0.0, "min_words": 6, "max_words": 6, "block_ngram": 1}
    captions = tmp_path / "captions.json"
    result = run("evaluate", model, dataset, *METRICS, *options, "--output-captions", captions)
    search = json.loads(result.out)["search"]
    assert {name: search[name] for name in expected} == expected
    for entry in json.loads(captions.read_text()):
        words = entry["caption"].lower().rstrip(".").split()
        assert len(words) == len(set(words)) == 6
    pytest.importorskip("sacrebleu")
    search = json.loads(run("evaluate", translator, parallel, *options).out)["search"]
    assert {name: search[name] for name in expected} == expected


@pytest.fixture
def malformed(dataset: Path) -> Path:
    with open(dataset, "a", encoding="utf-8") as file:
        file.write('{"image": "red.jpg", "captions": ["  "], "split": "val"}\n{"captions": ["a dog"]}\n')
    return dataset


def test_malformed_records_are_reported_in_a_line(run, model: Path, malformed: Path, tmp_path: Path) -> None:
    file = results(tmp_path / "theirs.json", {"red.jpg": "a red dog runs", "green.png": "a dog", "blue.jpg": "a dog"})
    for arguments in (("evaluate", model, malformed), ("score", file, malformed, "--split", "val")):
        result = run(*arguments, *METRICS, "--json")
        assert result.code == 0 and json.loads(result.out)["images"] == 3
        line = result.err.splitlines()[-1]
        first = f"captions: 2 malformed records were left out, the first: {malformed}:5: the caption is empty; "
        assert line.startswith(first)
        assert line.endswith("`captioner data inspect` lists them, --strict refuses them")
        result = run(*arguments, *METRICS, "--strict")
        assert (result.code, result.out) == (1, "")
        assert result.err.splitlines()[-1] == f"error: {malformed}:5: the caption is empty"


def test_ids_that_cannot_be_written_are_refused_before_the_work(run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("image,caption\n7,a dog\n07,a dog\n")
    result = run("evaluate", model, tmp_path / "data.csv", *METRICS, "--output-captions", tmp_path / "captions.json")
    assert result.code == 1 and "image '07': another id is the same number" in result.err


def test_features_of_another_encoder_are_refused(run, model: Path, dataset: Path, features: Path) -> None:
    index = features / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"fingerprint": "other"}))
    result = run("evaluate", model, dataset, *METRICS, "--features", features)
    assert (result.code, result.out) == (1, "")
    assert "made by another encoder" in result.err


def test_features_fit_at_any_precision(
    run, model: Path, dataset: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("captioner.encoders.encoder.fast_dtype", lambda device: torch.bfloat16)
    assert run("evaluate", model, dataset, "--metrics", "BLEU", "--features", features).code == 0


def test_an_unreadable_image_is_reported(run, model: Path, dataset: Path) -> None:
    (dataset.parent / "blue.jpg").unlink()
    result = run("evaluate", model, dataset, *METRICS, "--json")
    assert result.code == 1
    assert f"error: {dataset.parent / 'blue.jpg'}: " in result.err
    assert json.loads(result.out)["images"] == 2


def test_an_unknown_metric_is_refused_before_captioning(
    run, model: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "captioner.evaluation.evaluate.generate", lambda *args, **kwargs: pytest.fail("captioned all the same")
    )
    result = run("evaluate", model, dataset, "--metrics", "BLUE")
    assert result.code == 1
    assert "BLUE" in result.err and "BLEU" in result.err


@pytest.fixture
def unlabelled(dataset: Path) -> Path:
    """COCO's list of images without published captions."""
    images = [
        {"id": number, "file_name": name, "width": 80, "height": 60}
        for number, name in enumerate(("red.jpg", "green.png"), start=581)
    ]
    file = dataset.parent / "image_info_test2014.json"
    file.write_text(json.dumps({"info": {}, "images": images, "categories": []}))
    return file


def test_the_test_servers_file_of_a_split_without_references(
    run, model: Path, unlabelled: Path, tmp_path: Path
) -> None:
    output = tmp_path / "captions_test2014_tiny_results.json"
    result = run("evaluate", model, unlabelled, "--output-captions", output)
    assert result.code == 0 and "nothing is scored" in result.err
    written = json.loads(output.read_text())
    assert [entry["image_id"] for entry in written] == [581, 582] and all(entry["caption"] for entry in written)
    from pycocotools.coco import COCO

    coco = COCO(str(unlabelled))
    coco.dataset["annotations"] = []
    coco.createIndex()
    assert sorted(coco.loadRes(str(output)).getImgIds()) == [581, 582]


def test_a_split_without_references_needs_an_output(run, model: Path, unlabelled: Path, tmp_path: Path) -> None:
    result = run("evaluate", model, unlabelled)
    assert (result.code, result.out) == (1, "") and "--output-captions" in result.err
    result = run("score", results(tmp_path / "theirs.json", {581: "a dog"}), unlabelled)
    assert (result.code, result.out) == (1, "") and "no reference captions" in result.err


def test_an_unknown_split_names_the_existing_ones(run, model: Path, dataset: Path) -> None:
    result = run("evaluate", model, dataset, "--split", "test")
    assert result.code == 1
    assert "val (3), train (1)" in result.err


def test_translations_are_scored_by_sacrebleu(run, translator: Path, parallel: Path, tmp_path: Path) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, scores = tmp_path / "texts.json", tmp_path / "scores.json"
    result = run(f"evaluate {translator} {parallel} --device cpu --output-captions {texts} --output-scores {scores}")
    assert (result.code, result.after) == (0, f"{texts}: 4 translations\n{scores}: the scores\n")
    found, written = json.loads(texts.read_text()), json.loads(scores.read_text())
    for key, language in (("source", "en"), ("reference", "de")):
        text = (parallel / f"val.{language}").read_text(encoding="utf-8")
        assert [entry[key] for entry in found] == text.splitlines()

    from captioner import Translator

    translations = Translator.from_pretrained(translator, device="cpu")([entry["source"] for entry in found])
    assert [entry["translation"] for entry in found] == [translation.text for translation in translations]
    corpus = [entry["translation"] for entry in found], [[entry["reference"] for entry in found]]
    bleu, chrf = sacrebleu.corpus_bleu(*corpus).score, sacrebleu.corpus_chrf(*corpus).score
    assert written["scores"] == pytest.approx({"BLEU": bleu / 100, "chrF": chrf / 100}) and chrf > 0
    assert (written["sentences"], written["split"], written["languages"]) == (4, "val", ["en", "de"])
    assert written["model"] == str(translator) and written["search"]["width"] == 2
    for name, value in (("BLEU", bleu), ("chrF", chrf)):
        line, signature = (line for line in result.lines if name in line)
        assert signature == f"{name}: {written['signatures'][name]}" and "version" in signature
        low, high = written["intervals"][name]
        assert line.endswith(f" {value:.1f} [{100 * low:.1f}, {100 * high:.1f}]") and low <= high
    again = run("evaluate", translator, parallel, "--split", "train", "--beam", 1, "--device", "cpu", "--json")
    assert json.loads(again.out)["sentences"] == 40 and json.loads(again.out)["search"]["width"] == 1


def test_a_shipped_translator_is_found_by_its_name(run, shipped_translator: str, parallel: Path) -> None:
    pytest.importorskip("sacrebleu")
    result = run("evaluate", shipped_translator, parallel, "--json", "--device", "cpu")
    assert json.loads(result.out)["model"] == shipped_translator


def test_a_pair_with_an_empty_sentence_is_reported(run, translator: Path, parallel: Path) -> None:
    pytest.importorskip("sacrebleu")
    for language, text in (("en", "A dog runs."), ("de", "")):
        with open(parallel / f"val.{language}", "a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    result = run("evaluate", translator, parallel, "--json", "--device", "cpu")
    assert result.code == 1 and result.after == f"error: {parallel / 'val.de'}:5: the line is empty\n"
    assert json.loads(result.out)["sentences"] == 4 and len(json.loads(result.out)["unreadable"]) == 1


@pytest.mark.parametrize(
    "option", ["--metrics BLEU", "--features store", "--restval", "--strict", "--images .", "--per-image each.csv"]
)
def test_options_of_captioners_are_refused_for_translators(run, translator: Path, parallel: Path, option: str) -> None:
    result = run(f"evaluate {translator} {parallel} {option}")
    assert (result.code, result.out) == (2, "") and option.split()[0] in result.err


def test_a_missing_split_names_the_existing_files(run, translator: Path, parallel: Path) -> None:
    result = run("evaluate", translator, parallel, "--split", "test", "--device", "cpu")
    assert (result.code, result.out) == (1, "") and "test.en" in result.err and "val.en" in result.err


def test_an_ensemble_is_one_captioner(run, model: Path, partner: Path, dataset: Path, tmp_path: Path) -> None:
    from captioner import Captioner

    captions, name = tmp_path / "captions.json", f"{model}+{partner}"
    result = run("evaluate", name, dataset, *METRICS, "--output-captions", captions)
    assert (result.code, result.after) == (0, f"{captions}: 3 captions\n")
    assert result.lines[0] == f"{name} on captions, val"
    ensemble = Captioner.from_pretrained(name)
    for row in json.loads(captions.read_text()):
        assert row["caption"] == " ".join(ensemble(dataset.parent / row["image_id"]).tokens)
    joined = run("evaluate", name, dataset, *METRICS, "--json", "--output-captions", captions)
    record = json.loads(joined.out)
    assert record["model"] == name and record["search"] == ensemble.search.model_dump()
    shown = {line.split()[-1] for line in result.lines}
    assert all(f"{100 * score:.1f}" in shown for score in record["scores"].values())


def test_an_ensemble_reads_the_features_of_its_only_encoder(
    run, model: Path, partner: Path, dataset: Path, features: Path, tmp_path: Path
) -> None:
    again = Path(shutil.copytree(model, tmp_path / "again"))
    alone = run("evaluate", model, dataset, *METRICS, "--json", "--features", features)
    both = run("evaluate", f"{model}+{again}", dataset, *METRICS, "--json", "--features", features)
    assert json.loads(both.out)["scores"] == pytest.approx(json.loads(alone.out)["scores"])
    result = run("evaluate", f"{model}+{partner}", dataset, *METRICS, "--features", features)
    assert (result.code, result.out) == (1, "")
    assert f"{features}: was not made by the encoder of each member" in result.err


@pytest.mark.parametrize(
    ("line", "now"),
    [
        ("evaluate data.json --captions theirs.json", "captioner score CAPTIONS DATA"),
        ("evaluate show_tell data.json --grounding=boxes.json", "captioner ground MODEL DATA BOXES"),
        ("evaluate data.json -m show_tell", "captioner evaluate MODEL DATA, with A+B"),
        ("export show_tell -o new --format onnx", "captioner export MODEL"),
        ("features data.json -o new --size 64", "captioner features --set size=N"),
    ],
)
def test_an_option_that_moved_names_the_new_command(line: str, now: str, run: Run) -> None:
    result = run(*line.split())
    assert result.code == 2 and "No such option" in result.err and f" is now: {now}" in result.err
