from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run, bleu, results
from tests.disks import small_disk

METRICS = ("--split", "val", "--metrics", "BLEU,CIDEr")


def test_captions_of_another_program_are_scored(run: Run, dataset: Path, tmp_path: Path) -> None:
    captions = {"red.jpg": "a red dog runs", "green.png": "the dog", "blue.jpg": "grass"}
    file = results(tmp_path / "theirs.json", captions)
    for kind in ("json", "csv"):
        result = run("score", file, dataset, *METRICS, "--json", "--per-image", tmp_path / f"each.{kind}")
        assert (result.code, result.err) == (0, f"{tmp_path}/each.{kind}: the scores of 3 images\n")
    expected, each = bleu(dataset, captions)
    value = json.loads(result.out)
    assert [value["scores"][f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected)
    assert value["images"] == 3 and value["model"] == str(file) and "search" not in value
    written = json.loads((tmp_path / "each.json").read_text())
    assert {row["image_id"]: row["caption"] for row in written} == captions
    assert [row["BLEU-2"] for row in written] == pytest.approx([each[row["image_id"]] for row in written])
    with open(tmp_path / "each.csv", encoding="utf-8", newline="") as table:
        assert [float(row["CIDEr"]) for row in csv.DictReader(table)] == pytest.approx(
            [row["CIDEr"] for row in written]
        )


def test_scores_are_printed_before_a_file_that_a_full_disk_refuses(run: Run, dataset: Path, tmp_path: Path) -> None:
    file = results(tmp_path / "theirs.json", {"red.jpg": "a red dog runs", "blue.jpg": "a dog", "green.png": "a cat"})
    with small_disk(tmp_path / "disk", "4k") as disk:
        (disk / "full").write_bytes(bytes(4096))
        result = run("score", file, dataset, *METRICS, "--json", "--per-image", disk / "each.json")
    assert result.code == 1 and json.loads(result.out)["images"] == 3 and "the disk is full" in result.err


def test_unknown_or_missing_ids_are_reported_and_the_rest_is_scored(run: Run, dataset: Path, tmp_path: Path) -> None:
    file = results(
        tmp_path / "theirs.json", {"red.jpg": "a red dog runs", "blue.jpg": "a dog", "nobody.jpg": "a cat", 7: "a cow"}
    )
    result = run("score", file, dataset, *METRICS, "--json")
    assert result.code == 1 and json.loads(result.out)["images"] == 2
    first, second = result.err.splitlines()
    assert first == f"error: {file}: 2 captions are of images that captions, val does not have: 'nobody.jpg', '7'"
    assert second == f"error: {file}: 1 of 3 images have no caption: 'green.png'"


def test_captions_of_entirely_different_images(run: Run, dataset: Path, tmp_path: Path) -> None:
    file, scores = results(tmp_path / "theirs.json", {1: "a cat"}), tmp_path / "scores.json"
    result = run("score", file, dataset, *METRICS, "--output-scores", scores)
    assert (result.code, result.out) == (1, "") and not scores.exists()
    assert all(part in result.err for part in ("no caption is of a", "'1'", "'blue.jpg'"))


def test_ids_are_the_same_with_and_without_zeros(run: Run, tmp_path: Path) -> None:
    rows = [{"image": f"{number:012d}", "caption": f"a dog number {number} runs"} for number in (7, 12)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = results(tmp_path / "theirs.json", {7: "a dog number 7 runs", 12: "a dog number 12 runs"})
    result = run("score", file, tmp_path / "data.jsonl", "--metrics", "BLEU", "--json")
    assert result.code == 0 and json.loads(result.out)["scores"]["BLEU-4"] == pytest.approx(1, abs=1e-3)
