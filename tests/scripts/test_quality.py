"""The tables of the page on better captions are those of its JSON file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.scripts.test_cards import load


@pytest.fixture(scope="module")
def quality(repository: Path) -> ModuleType:
    return load(repository, "quality")


def rows_of(markdown: str) -> list[list[str]]:
    """Read a Markdown table back: its head and its rows."""
    lines = [line.strip().strip("|").split("|") for line in markdown.splitlines()]
    return [[cell.strip() for cell in line] for line in (lines[0], *lines[2:])]


def numbers(cell: Any) -> list[float]:
    """Return the numbers of a cell, in the order in which a reader expects them."""
    if isinstance(cell, dict):
        order = ("value", "deviation", "low", "high") if "value" in cell else ("difference", "p")
        return [cell[name] for name in order]
    return [float(cell)] if isinstance(cell, (int, float)) else []


def test_the_pages_tables_are_those_of_the_json_file(repository: Path, quality: ModuleType) -> None:
    page, lineage = ((repository / "docs" / name).read_text("utf-8") for name in ("howto/quality.md", "lineage.md"))
    assert not re.search(r"^\|", page, re.MULTILINE), "a table that was typed into the page"
    named = re.findall(r"<!-- table: quality_(\w+) -->", page + lineage)
    assert named == list(json.loads((repository / "docs" / "howto" / "quality.json").read_text(encoding="utf-8")))
    readme = load(repository, "readme")
    for name in named:
        table = quality.tables()[name]
        head, *rows = rows_of(readme.table(f"quality_{name}"))
        assert head == table["head"] and len(rows) == len(table["rows"])
        for written, row in zip(rows, table["rows"], strict=True):
            for text, cell in zip(written, row, strict=True):
                if isinstance(cell, str):
                    assert text == cell
                else:
                    assert [float(found) for found in re.findall(r"-?[\d.]+", text)] == numbers(cell)
                    assert ("†" in text) == (isinstance(cell, dict) and cell.get("differs", False))


def test_the_best_numbers_as_printed_are_bold(quality: ModuleType) -> None:
    scores = [{"value": value, "deviation": 0.2, "low": 1.0, "high": 3.0, "differs": value < 2} for value in (2.5, 1.5)]
    rows = [["a", 3.04, 7, scores[0]], ["b", 3.0, 9, scores[1]], ["c", None, None, "no"]]
    assert quality.write({"head": ["", "x", "y", "z"], "best": ["x", "z"], "rows": rows}).splitlines() == [
        "|  | x | y | z |",
        "| --- | ---: | ---: | ---: |",
        "| a | **3.0** | 7 | **2.5 ± 0.2** [1.0, 3.0] |",
        "| b | **3.0** | 9 | 1.5 ± 0.2† [1.0, 3.0] |",
        "| c |  |  | no |",
    ]


def test_a_benchmarks_means_over_seeds_become_a_table(
    quality: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {
        "a": {"CIDEr": {"value": 0.5, "low": 0.4, "high": 0.6}},
        "b": {"CIDEr": {"value": 0.7, "low": 0.6, "high": 0.8}},
    }
    tests = {"b": {"CIDEr": {"value": 0.2, "low": 0.1, "high": 0.3, "p_bootstrap": 0.01, "p_randomisation": 0.02}}}
    deviations = {"a": {"CIDEr": 0.011}, "b": {"CIDEr": 0.013}}
    seeds = {"means": {"scores": scores, "differences": tests}, "deviations": deviations}
    (tmp_path / "benchmark.json").write_text(json.dumps({"quality": {"seeds": seeds}}))
    other = {"head": ["what", "CIDEr"], "rows": [["kept", 1.0]]}
    monkeypatch.setattr(quality, "RECORD", tmp_path / "quality.json")
    quality.RECORD.write_text(quality.dump({"old": {"head": ["recipe"], "rows": [["c"]]}, "other": other}))
    monkeypatch.setattr("sys.argv", ["quality.py", "old", str(tmp_path / "benchmark.json")])
    quality.main()
    assert quality.tables()["other"] == other and list(quality.tables()) == ["old", "other"]
    assert rows_of(quality.write(quality.tables()["old"])) == [
        ["recipe", "CIDEr"],
        ["`a`", "50.0 ± 1.1 [40.0, 60.0]"],
        ["`b`", "**70.0 ± 1.3**† [60.0, 80.0]"],
    ]


def test_a_benchmark_of_one_seed_is_refused(quality: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no means over seeds"):
        quality.means_over_seeds({"quality": {"seeds": None}})


def test_the_file_is_as_the_script_writes_it(quality: ModuleType) -> None:
    assert quality.dump(quality.tables()) == quality.RECORD.read_text(encoding="utf-8")
