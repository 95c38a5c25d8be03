"""A command that lacks a package names the extra that has it, before any work is done."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

import pytest

from captioner.machine.packages import EXTRAS


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("train flickr8k_show_tell", "train"),
        ("benchmark --data {data} --train flickr8k_show_tell", "train"),
        ("features {data} -o store --encoder resnet18", "train"),
        ("evaluate show_attend_tell {data}", "evaluate"),
        ("score {data} {data}", "evaluate"),
        ("benchmark --data {data}", "evaluate"),
        ("evaluate translator_en_de {data}", "translate"),
        ("serve", "web"),
        ("export show_attend_tell -o out", "onnx"),
        ("bulk . -o out --format parquet", "bulk"),
        ("bulk . -o out --ray", "ray"),
    ],
)
def test_a_command_without_its_extra_fails_at_once_and_names_it(
    run, line: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos.csv").write_text("image,caption\na.jpg,a dog\n")
    (tmp_path / "a.jpg").write_bytes(b"")
    for module in chain.from_iterable(EXTRAS.values()):
        monkeypatch.setitem(sys.modules, module, None)
    result = run(line.format(data="photos.csv"))
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1].endswith(f"run: pip install 'captioner[{extra}]'")
    assert {path.name for path in tmp_path.iterdir()} <= {"photos.csv", "a.jpg", "out"}
