"""The README's pictures and table are there, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import commands, parse


@pytest.fixture(scope="module")
def readme() -> str:
    return (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_picture_is_there_and_light(readme: str, repository: Path) -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert "assets/heatmap.png" in pictures
    for name in pictures:
        assert (repository / name).stat().st_size < 300_000 and min(Image.open(repository / name).size) > 300


def test_every_command_can_be_parsed(readme: str) -> None:
    """Names of commands, options and values are right; nothing is run."""
    found = commands(readme)
    assert {words[0] for words in found} >= {"caption", "attend", "evaluate", "benchmark", "train", "data"}
    for words in found:
        parse(words)


def test_the_benchmarks_table_is_there(readme: str) -> None:
    table = readme.partition("<!-- benchmark:begin -->")[2].partition("<!-- benchmark:end -->")[0]
    assert "| show_tell |" in table and "| show_attend_tell |" in table and "CIDEr" in table
