"""The page on a decoder of one's own: its decoder trains and attends, its reader reads, its logger logs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.registry import import_code
from captioner.settings import validate
from captioner.training.log import Log
from captioner.training.logger import LOGGERS
from captioner.training.recipe import RunConfig
from tests.training.conftest import make_images


def blocks(repository: Path, language: str) -> list[str]:
    """Return the blocks of code of the page in a language."""
    page = (repository / "docs" / "howto" / "own_decoder.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def run(folder: Path, *arguments: str) -> str:
    """Run the program in a folder and return its output."""
    command = [sys.executable, "-m", "captioner", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_the_decoder_of_the_page_trains_and_attends(repository: Path, tmp_path: Path) -> None:
    code, _, logger = blocks(repository, "python")
    recipe, listed = blocks(repository, "yaml")
    assert len(code.strip().splitlines()) <= 42
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    make_images(tmp_path).rename(tmp_path / "photos.csv")
    (tmp_path / "mine.yaml").write_text(
        recipe.replace("data: {path: photos.csv}", "data: {path: photos.csv, min_count: 1}")
        + f"epochs: 6\noptimiser: {{learning_rate: 0.01}}\naverage: 0.5\n{listed}",
        encoding="utf-8",
    )
    (tmp_path / "curves.py").write_text(logger, encoding="utf-8")
    trained = run(tmp_path, "--import", "curves.py", "train", "mine.yaml", "--set", "logger=csv")
    assert trained.strip() == "runs/mine/best"
    table = (tmp_path / "runs" / "mine" / "curves.csv").read_text().splitlines()
    assert sum(",dev/CIDEr," in row for row in table) == 6
    outside = ("--import", "mine.py")
    captions = run(tmp_path, *outside, "caption", "0.png", "1.png", "2.png", "--model", "runs/mine/best")
    for colour, line in zip(("red", "green", "blue"), captions.splitlines(), strict=True):
        assert colour in line
    run(tmp_path, *outside, "attend", "0.png", "--model", "runs/mine/best", "-o", "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_the_reader_of_the_page_reads(repository: Path, tmp_path: Path) -> None:
    _, code, _ = blocks(repository, "python")
    (tmp_path / "lines.py").write_text(code, encoding="utf-8")
    good = ("a.jpg|train|A dog runs.", "a.jpg|train|The dog is fast.", "b.jpg|dev|A cat sleeps.")
    (tmp_path / "captions.lines").write_text("\n".join([*good, "no caption", "b.jpg|dev|"]), encoding="utf-8")
    for path in ("captions.lines", "."):
        output = run(tmp_path, "--import", "lines.py", "data", "inspect", path)
        assert "(lines): 2 images with 3 captions" in output
        assert "line 4: it needs an image" in output and "line 5: " in output


def test_the_logger_of_the_page_logs(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOGGERS, "_entries", dict(LOGGERS._entries))
    monkeypatch.setattr("captioner.registry._imported", [])
    (tmp_path / "curves.py").write_text(blocks(repository, "python")[2], encoding="utf-8")
    import_code(str(tmp_path / "curves.py"))
    config = validate(RunConfig, {"output": tmp_path, "logger": ["csv", "tensorboard"]}, where="test")
    log = Log(config, None, pytest.fail)
    for step in range(1, 21):
        log.step(step, {"loss": 1 / step})
    log.evaluation(1, 20, {"CIDEr": 0.5})
    log.close()
    assert (tmp_path / "curves.csv").read_text().splitlines() == [
        "10,train/loss,0.1",
        "20,train/loss,0.05",
        "20,dev/CIDEr,0.5",
    ]
    assert list((tmp_path / "curves").iterdir())
