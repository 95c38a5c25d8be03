"""Exit codes, the same for every command: 0 success, 1 error, 2 wrong usage, 130 when interrupted."""

from __future__ import annotations

import errno
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from captioner.cli import commands
from captioner.errors import CaptionerError
from tests.cli.conftest import Run

COMMANDS = {
    "caption": ["photo.jpg"],
    "attend": ["photo.jpg", "-o", "figure.png"],
    "find": ["a dog", "photos"],
    "serve": [],
    "bulk": ["photos", "-o", "captions"],
    "translate": ["Hello"],
    "evaluate": ["show_tell", "data.json"],
    "score": ["results.json", "data.json"],
    "ground": ["show_tell", "data.json", "boxes.json"],
    "benchmark": ["--data", "data.json"],
    "train": ["data.json"],
    "export": ["show_tell", "-o", "exported"],
    "push": ["show_tell", "user/model"],
    "features": ["data.json", "-o", "store"],
    "recipes": [],
    "models": [],
    "doctor": [],
    "data inspect": ["data.json"],
    "data convert": ["data.json", "-o", "new"],
    "data download": ["flickr8k"],
}
# The exception of a command, the exit code, and the start of stderr.
ENDS: list[tuple[BaseException | None, int, str]] = [
    (None, 0, ""),
    (CaptionerError("photo.jpg: is bad"), 1, "error: photo.jpg: is bad"),
    (OSError(errno.ENOSPC, "No space left on device", "file"), 1, "error: file: No space left on device"),
    (
        ModuleNotFoundError("No module named 'x'", name="x"),
        1,
        "error: this needs the package x, which is not installed; run: pip install x",
    ),
    (ValueError("oops"), 1, "error: unexpected ValueError: oops"),
    (MemoryError(), 1, "error: there is not enough memory for this"),
    (RuntimeError("CUDA out of memory. Tried"), 1, "error: there is not enough memory for this: CUDA"),
    (RuntimeError("oops"), 1, "error: unexpected RuntimeError: oops"),
    (typer.Exit(1), 1, ""),
    (typer.BadParameter("cannot be"), 2, "Usage"),
    (KeyboardInterrupt(), 130, ""),
]


def test_every_command_is_here() -> None:
    single = set(commands.NAMES) - {"data"}
    assert all([info.name for info in commands.load(name).registered_commands] == [name] for name in single)
    assert single | {f"data {info.name}" for info in commands.load("data").registered_commands} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_exit_code_follows_from_how_a_command_ends(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = name.split()
    (info,) = [info for info in commands.load(words[0]).registered_commands if info.name == words[-1]]

    def ending(how: BaseException | None, callback: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(callback)
        def end(**options: object) -> None:
            if how is not None:
                raise how

        return end

    callback = info.callback
    assert callback is not None
    for how, code, message in ENDS:
        monkeypatch.setattr(info, "callback", ending(how, callback))
        result = run(*name.split(), *COMMANDS[name])
        assert (result.code, result.out) == (code, ""), (how, result)
        assert result.err.lstrip().startswith(message)
    assert run(*name.split(), "--no-such-option").code == 2
    assert run(*name.split(), "--help").code == 0


def test_a_file_whose_name_looks_like_an_option_is_explained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-a.jpg").touch()
    result = run("caption", "-a.jpg", "b.jpg")
    assert result.code == 2 and result.err.splitlines()[-1].startswith("hint: -a.jpg is also a file; write ./-a.jpg")
    assert "hint" not in run("caption", "-b.jpg").err


@pytest.mark.slow
@pytest.mark.parametrize("line", ["models > /dev/full", "models >&-", "recipes | true; exit ${PIPESTATUS[0]}"])
def test_the_shell_gets_the_exit_code(line: str, repository: Path) -> None:
    line = f"{sys.executable} -m captioner {line}"
    done = subprocess.run(["bash", "-c", line], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) <= 1 and "Exception ignored" not in done.stderr
