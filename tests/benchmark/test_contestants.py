from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from captioner.benchmark.contestants import Contestant, GivenCaptions, find
from captioner.errors import CheckpointError


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models "mine" and "lr=0.1" and the results file "blip.json", which is the current folder."""
    for name in ("store", "store.names"):
        monkeypatch.setattr(f"captioner.{name}.read_config", lambda folder, kind="": {})
    for name in ("mine", "lr=0.1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    (tmp_path / "blip.json").write_text('[{"image_id": 1, "caption": "A dog."}]')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(text: str) -> None:
    raise AssertionError(text)


def test_a_name_is_of_a_file_or_a_model(workplace: Path) -> None:
    blip, renamed, together, equals = find(
        ["BLIP + CIDEr=blip.json", "soft=mine", "both=mine+lr=0.1", "lr=0.1"], refuse
    )
    assert blip == GivenCaptions("BLIP + CIDEr", Path("blip.json"), {"1": "A dog."})
    assert renamed == Contestant("soft", Path("mine"))
    assert together == Contestant("both", Path("mine"), others=(Path("lr=0.1"),))
    assert equals == Contestant("lr=0.1", Path("lr=0.1"))
    assert [one.name for one in find(["mine+lr=0.1", Path("mine")], refuse)] == ["mine+lr=0.1", "mine"]
    assert find([blip], refuse) == [blip]


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("blip.json", ["a name for the tables", "blip=blip.json"]),
        ("gone.json", ["a name for the tables", "gone=gone.json"]),
        ("blip=gone.json", ["gone.json: there is no such file", '"image_id"']),
        ("blip=mine/config.json", ["mine/config.json: is not JSON"]),
        ("blip=pipe", ["pipe: is not a regular file"]),
        ("=blip.json", ["'=blip.json': give NAME=FILE"]),
        ("blip=", ["'blip=': give NAME=FILE"]),
        (" \t=blip.json", ["give NAME=FILE"]),
        ("bl\x1b[31mip=blip.json", [r"'bl\x1b[31mip=blip.json'", "can be printed"]),
        ("two\nlines=blip.json", [r"two\nlines", "can be printed"]),
        ("soft=nothing", ["'nothing' does not exist"]),
    ],
)
def test_wrong_names_and_files_are_reported_and_the_others_stay(
    workplace: Path, argument: str, parts: list[str]
) -> None:
    os.mkfifo(workplace / "pipe")
    failed: list[str] = []
    assert [one.name for one in find([argument, "mine"], failed.append)] == ["mine"]
    (error,) = failed
    assert all(part in error for part in parts), error


def test_the_name_that_is_proposed_for_a_file_works(workplace: Path) -> None:
    (workplace / "beam=3.json").write_text(json.dumps([]))
    failed: list[str] = []
    find(["mine", "beam=3.json"], failed.append)
    proposed = failed[0].rpartition("write ")[2]
    assert [one.name for one in find(["mine", proposed], refuse)] == ["mine", "beam-3"]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["a=blip.json", "b=./blip.json"], "blip.json: this file is named twice"),
        (["a=mine", "b=mine"], "mine: this model is named twice"),
        (["a=mine", "a=blip.json"], "blip.json: another model is named 'a' too; name it otherwise: NAME=blip.json"),
    ],
)
def test_two_contestants_without_a_difference(workplace: Path, models: list[Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find(models, refuse)


def test_the_name_of_a_file_wins_over_the_short_name_of_a_model(workplace: Path) -> None:
    (workplace / "runs" / "mine").mkdir(parents=True)
    (workplace / "runs" / "mine" / "config.json").touch()
    (workplace / "two.json").write_text(json.dumps([]))
    assert [one.name for one in find(["runs/mine", "mine=two.json"], refuse)] == ["runs/mine", "mine"]
