"""--quiet and --verbose, before and after a command's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import captioner.data.annotations
from tests.cli.conftest import Run


@pytest.fixture
def odd(dataset: Path) -> Path:
    """A caption file with a malformed record, which every command reports."""
    dataset.write_text(dataset.read_text() + '{"image": 7}\n')
    return dataset


@pytest.mark.parametrize("place", ["before", "after", "short"])
def test_quiet_prints_results_and_errors_only(
    place: str, run: Run, odd: Path, model: Path, images: Path, tmp_path: Path
) -> None:
    command = ["features", odd, "--model", model, "-o", tmp_path / "store", "--batch-size", 2]
    loud = run(*command)
    assert "malformed" in loud.err and "gone.jpg" in loud.err
    quiet = run(*{"before": ["--quiet", *command], "after": [*command, "--quiet"], "short": ["-q", *command]}[place])
    assert (quiet.code, len(quiet.lines)) == (loud.code, len(loud.lines)) == (1, 1)
    (line,) = quiet.err.splitlines()
    assert line.startswith("error: ") and "gone.jpg" in line


def test_verbose_logs_the_steps(run: Run, model: Path, images: Path) -> None:
    plain = run("caption", images / "red.jpg", "--model", model)
    assert plain.err == ""
    loud = run("caption", images / "red.jpg", "--model", model, "-v")
    assert (loud.code, loud.out) == (0, plain.out)
    assert all(part in loud.err for part in (str(model), "device cpu", "float", "1 images in", "width=3", "done"))
    assert run("caption", images / "red.jpg", "--model", model).err == "", "it must not outlast the command"


def test_verbose_shows_the_cause_of_an_error(run: Run, model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "config.json").write_text("{")
    plain, loud = (run(*more, "export", bad, "-o", tmp_path / "out") for more in ([], ["-v"]))
    assert plain.code == loud.code == 1
    assert plain.err.startswith("error: ") and len(plain.err.splitlines()) == 1
    assert "JSONDecodeError" in loud.err and "Traceback" in loud.err and plain.err in loud.err


def test_an_unexpected_error_is_one_line_unless_verbose(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(captioner.data.annotations, "read_captions", broken)
    plain, loud = run("data", "inspect", "x"), run("data", "inspect", "x", "--verbose")
    assert plain.code == loud.code == 1
    assert plain.err.splitlines() == [loud.err.splitlines()[-2]]
    assert "unexpected ZeroDivisionError: division by zero" in plain.err and "--verbose" in plain.err
    assert "captioner doctor" in plain.err
    assert "in broken" in loud.err


def test_quiet_and_verbose_exclude_each_other(run: Run) -> None:
    result = run("-q", "recipes", "--verbose")
    assert result.code == 2 and "not both" in result.err


def test_json_stays_json(run: Run, images: Path, model: Path) -> None:
    result = run("-v", "caption", images / "red.jpg", "--model", model, "--json")
    assert json.loads(result.out)["image"] == str(images / "red.jpg")
