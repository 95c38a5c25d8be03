from __future__ import annotations

import errno
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import captioner
from captioner.cli import app
from tests.cli.test_exit_codes import COMMANDS


def shown_help(command: str) -> str:
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "150"})
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("command", ["", "data", *COMMANDS])
def test_help_shows_an_example(command: str) -> None:
    assert f"Example: captioner {command}" in shown_help(command)


@pytest.mark.parametrize("command", ["", "data", *COMMANDS])
def test_help_has_no_types_of_python(command: str) -> None:
    shown = shown_help(command)
    assert not re.search(r"<[a-z]|BOOLEAN|INTEGER", shown)
    assert re.search(r"--help +-h +Show", shown)


def test_help_shows_options_in_groups() -> None:
    parts = re.split(r"╭─ (.*?) ─+╮", shown_help("evaluate"))
    groups = dict(zip(parts[1::2], parts[2::2], strict=True))
    for group, options in {
        "Data": ["--split", "--images", "--restval", "--strict", "--features"],
        "Search": ["--beam", "--length-normalisation", "--min-words", "--max-words", "--block-ngram"],
        "Machine": ["--batch-size", "--device", "--engine"],
        "Output": ["--metrics", "--output-captions", "--output-scores", "--per-image", "--json"],
        "Every command": ["--quiet", "--verbose", "--import"],
    }.items():
        assert set(re.findall(r"│ +(--[\w-]+)", groups[group])) == set(options)


@pytest.mark.parametrize(
    ("line", "shown", "others"),
    [
        ("--help", "Describe images in a sentence.", True),
        ("caption --help", "--n-best", False),
        ("models", "show_attend_tell (default)", False),
    ],
)
def test_commands_without_a_model_import_no_large_library(
    line: str, shown: str, others: bool, repository: Path
) -> None:
    """Only the help of the program imports commands that are not called."""
    # Without pydantic, which typer itself may load.
    heavy = ["torch", "torchvision", "timm", "numpy", "PIL", "yaml", "nltk", "matplotlib"]
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['captioner', *{line.split()}]\n"
        "try: runpy.run_module('captioner', run_name='__main__')\n"
        "except SystemExit as exit:\n"
        f"    loaded = [name for name in {heavy} if name in sys.modules]\n"
        "    print('loaded:', loaded, 'captioner.cli.train' in sys.modules, exit.code)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert shown in process.stdout
    assert process.stdout.splitlines()[-1] == f"loaded: [] {others} 0"


def test_garbage_is_collected_while_a_command_runs(repository: Path) -> None:
    """Only the start and the end go without it."""
    code = (
        "import gc, runpy, sys\n"
        "from captioner.cli import recipes\n"
        "def run() -> None: print(gc.isenabled(), gc.get_freeze_count() > 10_000)\n"
        "recipes.run, sys.argv = run, ['captioner', 'recipes']\n"
        "runpy.run_module('captioner', run_name='__main__')\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert process.stdout == "True True\n"


def test_version(run) -> None:
    assert run("--version") == (0, f"captioner {captioner.__version__}\n", "")


def test_a_near_miss_is_suggested(run) -> None:
    result = run("capton")
    assert result.code == 2
    assert "Did you mean 'caption'?" in result.err


def test_an_unknown_option_is_wrong_usage(run) -> None:
    assert run("caption", "photo.jpg", "--wobble").code == 2


def test_an_error_is_one_line(run, tmp_path: Path) -> None:
    missing = tmp_path / ("a folder with a long name that would not fit into eighty columns of a terminal" + "m" * 40)
    result = run("data", "inspect", missing)
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert line.startswith(f"error: {missing}: ")


def test_an_interrupt_is_one_line(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("captioner.data.annotations.read_captions", interrupted)
    assert run("data", "inspect", "anything") == (130, "", "error: interrupted\n")


def test_a_closed_stdout_is_not_reported(run, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    assert run("data", "inspect", dataset) == (1, "", "")
