from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from captioner.data.inspect import CountSummary, DataReport, DuplicateImages, Listing, SplitSummary, VocabularySummary


def test_inspect_counts_and_lists(run, dataset: Path) -> None:
    result = run("data", "inspect", dataset, "--min-count", 2)
    assert (result.code, result.err) == (0, "")
    assert result.lines[0] == "captions (jsonl): 4 images with 7 captions"
    assert "Missing images: 1" in result.lines
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
    assert "Missing images: 1" in result.lines  # the report is printed all the same
    dataset.write_text("".join(dataset.read_text().splitlines(keepends=True)[:3]))
    assert run("data", "inspect", dataset, "--strict", "--check-pictures").code == 0
    with dataset.open("a") as file:
        file.write('{"image": "blue.jpg"\n')
    assert run("data", "inspect", dataset).code == 0
    assert run("data", "inspect", dataset, "--strict").code == 1


def test_check_images_decodes_them(run, dataset: Path) -> None:
    (dataset.parent / "blue.jpg").write_bytes(b"\xff\xd8\xff broken")
    assert "Unreadable images: 1" in run("data", "inspect", dataset, "--check-pictures").lines


def test_format_and_images(run, dataset: Path, tmp_path: Path) -> None:
    result = run("data", "inspect", dataset, "--format", "jsonline")
    assert result.code == 1
    assert "Did you mean 'jsonl'?" in result.err
    (tmp_path / "elsewhere").mkdir()
    assert "Missing images: 4" in run("data", "inspect", dataset, "--images", tmp_path / "elsewhere").lines


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> DataReport:
    """A report on a set in which everything is wrong; the command prints it."""
    summary = SplitSummary(3, 1234, CountSummary(1, 2.0, 2.0, 3, 3), CountSummary(2, 2.5, 2.5, 4, 4))
    report = DataReport(
        name="set",
        format="csv",
        splits={"train": summary, "[val]": summary},
        vocabulary=VocabularySummary(("train", "restval"), 2, 7, 5, {"val": 0.6}),
        missing=Listing(1, ("photos/d.jpg",)),
        duplicates=(DuplicateImages(("a", "b", "e"), ("train", "val")), DuplicateImages(("c", "f"), ("train",))),
        leaks=(DuplicateImages(("a", "b", "e"), ("train", "val")),),
        unreadable=Listing(0, ()),
        repeated_captions=Listing(1, ("c",)),
        empty_captions=2,
        problems=Listing(50, tuple(f"set.csv:{line}: {'bad ' * 40}" for line in range(20))),
    )
    monkeypatch.setattr("captioner.data.inspect.inspect_captions", lambda *args, **options: report)
    return report


def test_the_whole_report(run, dataset: Path, report: DataReport) -> None:
    result = run("data", "inspect", dataset)
    assert result.lines[0] == "set (csv): 6 images with 2,468 captions"
    rows = [" ".join(line.split()) for line in result.lines]
    for name in ("train", "[val]"):
        assert f"{name} 3 1,234 1 / 2.0 / 3 2 / 2.5 / 2.5 / 4 / 4" in rows
    header = next(line for line in result.lines if line.startswith("split"))
    train = next(line for line in result.lines if line.startswith("train"))
    assert header.index("images") + len("images") == train.index(" 3 ") + 2  # numbers end where their title ends
    for expected in (
        "Vocabulary of train + restval: 7 words, 5 of them occur at least 2 times\n"
        "  these cover 60.00% of the words in val",
        "Missing images: 1\n  photos/d.jpg\nUnreadable images: none",
        "Byte-identical images: 2\n  a = b = e (train, val)\n  c = f (train)",
        "The same image in more than one split: 1\n  a = b = e (train, val)",
        "Images with a repeated caption: 1\n  c\nEmpty captions: 2\n",
        f"Malformed records: 50\n  set.csv:0: {'bad ' * 40}\n",
        "  ... and 30 more\n",
    ):
        assert expected in result.out


def test_what_was_not_checked_is_not_printed(run, dataset: Path, report: DataReport, monkeypatch) -> None:
    unchecked = dataclasses.replace(report, splits={}, missing=None, duplicates=None, leaks=None, unreadable=None)
    monkeypatch.setattr("captioner.data.inspect.inspect_captions", lambda *args, **options: unchecked)
    result = run("data", "inspect", dataset)
    assert result.lines[0] == "set (csv): 0 images with 0 captions"
    assert result.lines[1].startswith("Vocabulary of ")
    assert "nreadable" not in result.out


def test_convert_reports_what_it_wrote_and_what_was_lost(run, dataset: Path, tmp_path: Path) -> None:
    result = run("data", "convert", dataset, "-o", tmp_path / "new", "--format", ".caption")
    assert result.code == 1, "one image is missing"
    assert result.lines == [f"{tmp_path / 'new'} (.caption): 3 images with 6 captions; val 3"]
    assert f"error: {dataset.parent / 'gone.jpg'}: there is no such file" in result.err
    assert "several captions are lines of one file" in result.err
    assert run("data", "inspect", tmp_path / "new", "--strict").code == 0
    again = run("data", "convert", dataset, "-o", tmp_path / "new")
    assert (again.code, again.out) == (1, "")
    assert (
        again.err == f"error: {tmp_path / 'new'}: exists, and nothing is overwritten; give another name, or remove it\n"
    )


def test_convert_to_a_file(run, dataset: Path, tmp_path: Path) -> None:
    result = run("data", "convert", dataset, "-o", tmp_path / "x.json")
    assert result.code == 0
    assert result.err == f"{tmp_path / 'x.json'}: written as karpathy; --format chooses another format\n"
    inspected = run("data", "inspect", tmp_path / "x.json").lines
    assert inspected[0] == "captions (karpathy): 4 images with 7 captions"


def test_convert_copies_on_request(run, dataset: Path, tmp_path: Path) -> None:
    for options, linked in (((), True), (("--copy",), False)):
        target = tmp_path / f"new{linked}"
        run("data", "convert", dataset, "-o", target, *options)
        assert {path.is_symlink() for path in target.rglob("*.jpg")} == {linked}


def test_commands_read_images_inside_files(run, dataset: Path, model: Path, tmp_path: Path) -> None:
    """A model is evaluated, and features are made, from a tar file as from the files in it."""
    run("data", "convert", dataset, "-o", tmp_path / "val.tar")
    whole = run("evaluate", model, dataset, "--split", "val", "--metrics", "CIDEr", "--json")
    packed = run("evaluate", model, tmp_path / "val.tar", "--split", "val", "--metrics", "CIDEr", "--json")
    assert json.loads(packed.out)["scores"] == json.loads(whole.out)["scores"]
    features = run("features", tmp_path / "val.tar", "-o", tmp_path / "store", "--model", model)
    assert "3 images" in features.out
