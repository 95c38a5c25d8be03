"""The README's images and table are there, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import commands, parse


@pytest.fixture(scope="module")
def readme() -> str:
    return (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_image_is_there_and_light(readme: str, repository: Path) -> None:
    images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert "assets/heatmap.png" in images
    for name in images:
        assert (repository / name).stat().st_size < 300_000 and min(Image.open(repository / name).size) > 300


def test_every_command_can_be_parsed(readme: str) -> None:
    """Names of commands, options and values are right; nothing is run."""
    found = commands(readme)
    assert {words[0] for words in found} >= {"caption", "attend", "evaluate", "benchmark", "train", "data"}
    for words in found:
        parse(words)


def test_it_is_short_and_its_links_lead_somewhere(readme: str, repository: Path) -> None:
    assert len(readme.splitlines()) <= 130
    for name in re.findall(r"\]\((?!https?:)([^)#]+)", readme):
        assert (repository / name).exists(), name


def test_install_lines_name_extras_that_exist(repository: Path) -> None:
    """The program is installed from a clone, so its extras are written as ``'.[web]'``."""
    project = (repository / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2], re.MULTILINE)
    for page in (repository / "README.md", *(repository / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"'\.\[(\w+)\]'", text)) <= set(extras), page
        assert "captioner[" not in text, page
