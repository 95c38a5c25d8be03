from __future__ import annotations

import json
from pathlib import Path


def test_inspect_counts_and_finds(run, dataset: Path) -> None:
    result = run("data", "inspect", dataset, "--min-count", 2)
    assert (result.code, result.err) == (0, "")
    assert result.lines[0] == "captions (jsonl): 4 photos with 7 captions"
    assert "Missing pictures: 1" in result.lines
    assert f"  {dataset.parent / 'gone.jpg'}" in result.lines


def test_json(run, dataset: Path) -> None:
    report = json.loads(run("data", "inspect", dataset, "--json", "--min-count", 1).out)
    assert {name: split["photos"] for name, split in report["splits"].items()} == {"val": 3, "train": 1}
    assert report["missing"]["count"] == 1
    assert report["vocabulary"]["kept"] == 5  # a red ball on grass
    assert report["unreadable"] is None


def test_strict_fails_when_something_is_wrong(run, dataset: Path) -> None:
    result = run("data", "inspect", dataset, "--strict")
    assert result.code == 1
    assert "Missing pictures: 1" in result.lines  # the report is there all the same
    dataset.write_text("".join(dataset.read_text().splitlines(keepends=True)[:3]))
    assert run("data", "inspect", dataset, "--strict", "--check-pictures").code == 0
    with dataset.open("a") as file:
        file.write('{"image": "blue.jpg"\n')
    assert run("data", "inspect", dataset).code == 0
    assert run("data", "inspect", dataset, "--strict").code == 1


def test_check_pictures_decodes_them(run, dataset: Path) -> None:
    (dataset.parent / "blue.jpg").write_bytes(b"\xff\xd8\xff broken")
    assert "Unreadable pictures: 1" in run("data", "inspect", dataset, "--check-pictures").lines


def test_format_and_images(run, dataset: Path, tmp_path: Path) -> None:
    result = run("data", "inspect", dataset, "--format", "jsonline")
    assert result.code == 1
    assert "Did you mean 'jsonl'?" in result.err
    (tmp_path / "elsewhere").mkdir()
    assert "Missing pictures: 4" in run("data", "inspect", dataset, "--images", tmp_path / "elsewhere").lines
