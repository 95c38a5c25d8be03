from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest

from captioner.decoders import DECODERS
from captioner.encoders import ENCODERS, REFINERS
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


def test_json_has_everything(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.registry._imported", [])  # no files of other tests
    listed = json.loads(run("models", "--json").out)
    assert set(listed["models"]) == set(shipped(None))
    assert listed["models"][DEFAULT]["default"]
    for model in listed["models"].values():
        metric = {"captioner": "CIDEr", "translator": "BLEU", "detector": "mAP@0.5"}[model["kind"]]
        assert model["scores"] and all(0 < scores[metric] < 3 for scores in model["scores"].values())
        assert model["megabytes"] < 32  # the default has its graphs too
    for registry in (ENCODERS, TEXT_ENCODERS, REFINERS, DECODERS):
        assert list(listed[registry.kind]) == list(registry)
        for name, summary in listed[registry.kind].items():
            words = re.findall(r"\w+", summary)
            assert words and words == re.findall(r"\w+", re.sub(r":\w+:", "", registry[name].__doc__))[: len(words)]


def test_a_family_of_ones_own_is_listed(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.registry._imported", [])
    monkeypatch.setattr(DECODERS, "_entries", dict(DECODERS._entries))
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from captioner.decoders import DECODERS, Decoder\n"
        "@DECODERS.register('guess')\n"
        "class Guess(Decoder):\n"
        "    '''Guesses every word.'''\n",
        encoding="utf-8",
    )
    listed = json.loads(run("--import", mine, "models", "--json").out)
    assert listed["decoder"]["guess"] == "Guesses every word."
    assert set(listed["encoder"]) == set(ENCODERS)


def test_a_package_that_fails_is_reported_and_the_other_families_are_listed(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = metadata.EntryPoint("far", "no.such.module", "captioner.decoders")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == point.group else [])
    found = run("models", "--json")
    assert found.code == 1 and "decoder 'far': no.such.module: No module named 'no'" in found.err
    listed = json.loads(found.out)
    assert (
        set(listed["encoder"]) == set(ENCODERS) and "far" not in listed["decoder"] and "show_tell" in listed["decoder"]
    )


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
