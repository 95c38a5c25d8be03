"""The page on a decoder of one's own: its code trains, captions and attends, as the page has it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import make_images


@pytest.mark.slow
def test_the_decoder_of_the_page_trains_and_attends(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "howto" / "own_decoder.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(code.strip().splitlines()) <= 42
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    make_images(tmp_path).rename(tmp_path / "photos.csv")
    (tmp_path / "mine.yaml").write_text(
        recipe.replace("data: {path: photos.csv}", "data: {path: photos.csv, min_count: 1}")
        + "epochs: 6\noptimiser: {learning_rate: 0.01}\naverage: 0.5\n",
        encoding="utf-8",
    )

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "captioner", "--import", "mine.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert run("train", "mine.yaml").strip() == "runs/mine/best"
    captions = run("caption", "0.png", "1.png", "2.png", "--model", "runs/mine/best")
    for colour, line in zip(("red", "green", "blue"), captions.splitlines(), strict=True):
        assert colour in line
    run("attend", "0.png", "--model", "runs/mine/best", "-o", "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
