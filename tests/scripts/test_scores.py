"""README, cards and documentation show the scores of one record, and it is that of the models that ship."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from captioner import Captioner
from captioner.store import CARD, read_config, shipped
from tests.scripts.test_cards import load

METRICS = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]


@pytest.fixture(scope="module")
def scores(repository: Path) -> ModuleType:
    return load(repository, "scores")


@pytest.fixture(scope="module")
def record(repository: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((repository / "assets" / "benchmark.json").read_text(encoding="utf-8"))
    return found


def percent(score: dict[str, float]) -> str:
    """Write a score as every table does."""
    return f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def rows(table: str) -> dict[str, list[str]]:
    """Read the rows of a Markdown table, by the name in their first cell."""
    cells = [[cell.strip(" `*") for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
    return {first: others for first, *others in cells[2:]}


def test_the_record_is_of_the_files_that_ship(record: dict[str, Any]) -> None:
    assert set(record["models"]) == set(shipped())
    for name, scored in record["models"].items():
        config = read_config(shipped()[name])
        listed = {part: file["sha256"] for part, file in config["files"].items()}
        assert scored["files"] == listed, f"{name} has changed; run scripts/readme.py --data DATA --rounds 0"
        assert scored["search"] == config["model"]["search"]


def test_the_record_has_both_dev_sets_and_the_grounding_test(record: dict[str, Any], repository: Path) -> None:
    assert {name: each["images"] for name, each in record["scores"].items()} == {"flickr8k": 1000, "coco": 233}
    names = list(record["models"])
    for each in record["scores"].values():
        assert list(each["scores"]) == list(each["diversity"]) == names
        assert all(list(values) == METRICS for values in each["scores"].values())
        assert list(each["differences"]) == names[1:]
    listed = re.findall(r"^\d+$", (repository / "docs" / "grounding_test.txt").read_text(), re.MULTILINE)
    assert {each["images"] for each in record["grounding"]["models"].values()} == {len(listed)}
    assert set(record["grounding"]["models"]) == {name for name in names if name != "show_tell"}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_configs_and_cards_have_the_scores_of_the_record(name: str, record: dict[str, Any]) -> None:
    about, card = read_config(shipped()[name])["about"], (shipped()[name] / CARD).read_text(encoding="utf-8")
    assert list(about["scores"]) == list(record["scores"])
    for data, each in record["scores"].items():
        assert about["scores"][data]["metrics"] == each["scores"][name]
        assert about["scores"][data]["distinct_words"] == each["diversity"][name]["vocabulary"]
    table = rows(card.partition("## Scores")[2].partition("##")[0])
    for metric in METRICS:
        assert table[metric] == [percent(each["scores"][name][metric]) for each in record["scores"].values()]
    grounding = record["grounding"]["models"].get(name)
    assert about.get("grounding") == grounding and ("### Attention" in card) == (grounding is not None)
    if grounding:
        table = rows(card.partition("### Attention")[2].partition("##")[0])
        for metric in ("pointing", "mass"):
            names = (metric, f"{metric}, uniform", f"{metric}, centre", f"{metric} over centre")
            assert table[metric] == [percent(grounding["scores"][each]) for each in names]


def test_the_readmes_table_is_that_of_the_record(record: dict[str, Any], repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    inside = readme.partition("<!-- scores:begin -->\n")[2].partition("\n<!-- scores:end -->")[0]
    assert inside == load(repository, "readme").table("scores")
    table = rows(inside)
    assert set(table) == set(shipped())
    means = []
    for name, (search, *cells) in table.items():
        assert search == f"beam {record['models'][name]['search']['width']}"
        expected = []
        for each in record["scores"].values():
            found = each["scores"][name]
            expected += [f"{100 * found[metric]['value']:.1f}" for metric in ("BLEU-4", "METEOR")]
            expected += [percent(found["CIDEr"])]
        assert cells[:6] == expected
        means.append(sum(each["scores"][name]["CIDEr"]["value"] for each in record["scores"].values()))
        pointing = record["grounding"]["models"].get(name)
        assert cells[7].lstrip("+") == (percent(pointing["scores"]["pointing over centre"]) if pointing else "–")
    assert means == sorted(means)


def test_the_documentations_tables_are_those_of_the_record(record: dict[str, Any], scores: ModuleType) -> None:
    for data, each in record["scores"].items():
        table = rows(scores.table(f"scores_{data}"))
        assert list(table) == list(record["models"])
        for name, cells in table.items():
            expected = [percent(each["scores"][name][metric]) for metric in METRICS]
            assert [re.sub("[*†]", "", cell) for cell in cells] == expected
    for name, cells in rows(scores.table("grounding")).items():
        found = record["grounding"]["models"][name]
        names = [f"{metric}{over}" for metric in ("pointing", "mass") for over in ("", " over uniform", " over centre")]
        assert cells[0] == str(found["words"])
        assert [cell.lstrip("+") for cell in cells[1:]] == [percent(found["scores"][each]) for each in names]
    with pytest.raises(KeyError):
        scores.table("nothing")
    with pytest.raises(KeyError):
        scores.table("scores_nothing")


def test_no_page_has_a_table_of_the_models_scores_of_its_own(repository: Path) -> None:
    """A row that begins with a model's name and has decimals is written from the record."""
    readme = (repository / "README.md").read_text(encoding="utf-8")
    before, _, after = readme.partition("<!-- scores:begin -->")
    pages = {path.name: path.read_text(encoding="utf-8") for path in (repository / "docs").rglob("*.md")}
    pages["README.md"] = before + after.partition("<!-- scores:end -->")[2]
    names = "|".join(shipped())
    for page, text in pages.items():
        found = re.findall(rf"^\| `?(?:{names})`? \|.*\d\.\d.*$", text, re.MULTILINE)
        assert not found, f"{page}: {found}"


def test_a_model_attends_if_its_attention_is_in_the_record(record: dict[str, Any], scores: ModuleType) -> None:
    for name in ("show_tell", "transformer"):
        assert scores._attends(name) == Captioner.from_pretrained(name).attends
        assert scores._attends(name) == (name in record["grounding"]["models"])


def test_the_number_of_candidates_is_below_the_table(scores: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    abouts = {"a": {}, "b": {"candidates": {"models": 3, "beams": [3, 5]}}}
    monkeypatch.setattr(scores, "shipped", lambda: {name: name for name in abouts})
    monkeypatch.setattr(scores, "read_config", lambda name: {"about": abouts[name]})
    assert scores._candidates(["a"]) == []
    assert scores._candidates(["a", "b"])[0].endswith(": `b` 6.")


def test_costs_are_kept_for_models_that_did_not_change(scores: ModuleType) -> None:
    before = {
        "models": {"a": {"files": 1}, "b": {"files": 2}, "gone": {"files": 3}},
        "rounds": 20,
        "machine": {"cores": 2},
        "cost": {"a": "cost of a", "b": "cost of b", "gone": "cost of gone"},
    }
    new = {
        "models": {"a": {"files": 1}, "b": {"files": 9}, "c": {"files": 3}},
        "rounds": 0,
        "machine": None,
        "cost": {},
    }
    kept = scores.with_costs_of(new, before)
    assert (kept["cost"], kept["rounds"], kept["machine"]) == ({"a": "cost of a"}, 20, {"cores": 2})
    changed = {**new, "models": {"a": {"files": 0}, "b": {"files": 2}}}
    assert scores.with_costs_of(changed, before)["cost"] == {}, "speeds are relative to the first model's"


def test_only_the_images_of_the_grounding_test_are_grounded(
    scores: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "grounding_test.txt"
    listed.write_text("# COCO ids\n139\n285\n")
    monkeypatch.setattr(scores, "GROUNDING_TEST", listed)
    boxed = [{"id": 1, "coco_id": 139}, {"id": 2, "coco_id": 285}, {"id": 3, "coco_id": 632}, {"id": 4}]

    def write(*captioned: int) -> None:
        (tmp_path / "instances_val.json").write_text(json.dumps({"images": boxed}))
        (tmp_path / "captions_val.json").write_text(json.dumps({"images": [{"id": each} for each in captioned]}))

    write(1, 2)
    scores.check_grounding_test(tmp_path)
    for others, numbers in (
        ((1, 2, 3), "have 1 .* lack 0"),
        ((1,), "have 0 .* lack 1"),
        ((1, 2, 4), "have 1 .* lack 0"),
    ):
        write(*others)
        with pytest.raises(SystemExit, match=numbers):
            scores.check_grounding_test(tmp_path)
