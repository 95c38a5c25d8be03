from __future__ import annotations

import json

from captioner.decoders import DECODERS
from captioner.encoders import REFINERS
from captioner.encoders.sequence import TEXT_ENCODERS
from captioner.store import DEFAULT, shipped


def test_shipped_models_and_families_are_listed(run) -> None:
    result = run("models")
    assert (result.code, result.err) == (0, "")
    for name in (*shipped(None), *DECODERS, *TEXT_ENCODERS, *REFINERS):
        assert name in result.out


def test_the_scores_of_both_data_sets_are_listed(run) -> None:
    from captioner.store import read_config

    scores = read_config(shipped()[DEFAULT])["about"]["scores"]
    (line,) = (line for line in run("models").lines if f"{DEFAULT} (default)" in line)
    values = [f"{100 * each['metrics']['CIDEr']['value']:.1f}" for each in scores.values()]
    assert list(scores) == ["flickr8k", "coco"] and " ".join(values) in " ".join(line.split())


def test_json_has_everything(run) -> None:
    listed = json.loads(run("models", "--json").out)
    assert set(listed["models"]) == set(shipped(None))
    assert listed["models"][DEFAULT]["default"]
    for model in listed["models"].values():
        metric = {"captioner": "CIDEr", "translator": "BLEU", "detector": "mAP@0.5"}[model["kind"]]
        assert model["scores"] and all(0 < scores[metric] < 3 for scores in model["scores"].values())
        assert model["megabytes"] < 31
    assert set(listed["decoder"]) == set(DECODERS)
    assert all(listed["decoder"].values()), "a family without a description"
    assert set(listed["text encoder"]) == set(TEXT_ENCODERS) and set(listed["refiner"]) == set(REFINERS)


def test_a_shipped_translator_is_listed(run, shipped_translator: str) -> None:
    (line,) = (line for line in run("models").lines if shipped_translator in line)
    assert "12.3" in line and "en to de, multi30k/train, 4 pairs" in line
    (model,) = json.loads(run("models", "--json").out)["models"].values()
    assert (model["kind"], model["languages"], model["pairs"], model["scores"]) == (
        "translator",
        ["en", "de"],
        4,
        {"multi30k": {"BLEU": 0.123}},
    )
    assert (model["encoder"], model["refiner"], model["decoder"]) == ("sequence", None, "show_attend_tell")


def test_a_damaged_model_is_reported_and_the_others_are_listed(run, shipped_translator: str) -> None:
    (folder,) = shipped(None).values()
    damaged = folder.with_name("broken")
    damaged.mkdir()
    (damaged / "config.json").write_text("null")
    for arguments in (["models"], ["models", "--json"]):
        result = run(*arguments)
        assert result.code == 1 and shipped_translator in result.out
        assert f"error: {damaged / 'config.json'}: its JSON is null" in result.err
