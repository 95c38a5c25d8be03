"""Completion, by the protocol of the shells' scripts and in the real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner import store
from tests.cli.conftest import Run
from tests.test_import import HEAVY

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a command called captioner, as an installation makes it."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "captioner"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m captioner \"$@\"\n")
    command.chmod(0o755)
    return folder


@pytest.fixture
def environment(program: Path, repository: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a new user's shell."""
    path = f"{program}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(repository)}


Complete = Callable[[str, str], list[str]]


@pytest.fixture
def complete(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Complete:
    """Ask for the completions of the last word of a line in an empty folder, as the shell's script does."""
    monkeypatch.chdir(tmp_path)

    def ask(shell: str, line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_CAPTIONER_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("COMP_WORDS", "\n".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        code, out, err = run()
        assert (code, err) == (0, "")
        return [word for word in out.splitlines() if word]

    return ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("captioner cap", ["caption"]),
        ("captioner data ", ["inspect", "convert", "download"]),
        ("captioner caption --model show_t", ["show_tell"]),
        ("captioner caption -m transf", ["transformer"]),
        ("captioner caption -m show_tell+trans", ["show_tell+transformer"]),
        ("captioner benchmark runs/mine+regions_top", ["runs/mine+regions_top_down"]),
        ("captioner caption photo.jpg --dev", ["--device"]),
        ("captioner caption --device c", ["cpu"]),
        ("captioner caption --language d", ["de"]),
        ("captioner caption --translator transl", ["translator_en_de"]),
        ("captioner evaluate tran", ["transformer", "translator_en_de"]),
        ("captioner ground regions_tr", ["regions_transformer"]),
        ("captioner benchmark show_tell transf", ["transformer"]),
        ("captioner train coco_top", ["coco_top_down"]),
        ("captioner recipes coco_top", ["coco_top_down"]),
        ("captioner train _", []),
        ("captioner export regions_top", ["regions_top_down"]),
        ("captioner bulk photos --format p", ["parquet"]),
        ("captioner data download karp", ["karpathy-splits"]),
        # The shell completes files.
        ("captioner caption ", []),
        ("captioner caption --output ", []),
        ("captioner caption --model runs/", []),
    ],
)
def test_names_are_completed(line: str, expected: list[str], complete: Complete) -> None:
    found = complete("bash", line)
    assert [word for word in found if not word.startswith("cuda")] == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_files_with_the_same_prefix_are_completed_too(shell: str, complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "show_mine").mkdir()
    (tmp_path / "show.jpg").touch()
    found = "\n".join(complete(shell, "captioner caption --model show"))
    names = [name for name in store.shipped() if name.startswith("show")]
    assert len(names) > 1 and all(name in found for name in [*names, "show_mine/", "show.jpg"])


def test_completion_imports_no_large_library(repository: Path) -> None:
    lines = ["caption --model ", "train ", "data download ", "caption --language ", "caption --device ", "bench"]
    code = (
        "import os, sys\n"
        "from captioner.cli import main\n"
        f"for line in {lines}:\n"
        "    os.environ['COMP_WORDS'] = 'captioner\\n' + line.replace(' ', '\\n')\n"
        "    os.environ['COMP_CWORD'] = str(len(line.split(' ')))\n"
        "    try: main([])\n"
        "    except SystemExit as exit: assert exit.code == 0\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    environment = {**os.environ, "_CAPTIONER_COMPLETE": "complete_bash", "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    *found, loaded = done.stdout.splitlines()
    assert {"show_attend_tell", "coco_top_down", "karpathy-splits", "de", "auto", "benchmark"} <= set(found)
    assert loaded == "loaded: []" and done.stderr == ""


def test_bash_completes(environment: dict[str, str], tmp_path: Path) -> None:
    """The script that is shown works in bash, with the names of files where there is nothing else to name."""
    (tmp_path / "photo.jpg").touch()
    script = """
eval "$(_CAPTIONER_COMPLETE=source_bash captioner)"
complete -p captioner
words() {
    COMP_WORDS=(captioner "$@"); COMP_CWORD=$#
    _captioner_completion captioner; printf '[%s]\\n' "${COMPREPLY[*]}"
}
words caption --model show_t
words caption ph
"""
    done = subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    expected = ["complete -o default -F _captioner_completion captioner", "[show_tell]", "[]"]
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_complete(shell: str, environment: dict[str, str], tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    source = {**environment, "_CAPTIONER_COMPLETE": f"source_{shell}"}
    made = subprocess.run(["captioner"], env=source, capture_output=True, text=True, check=True)
    if shell == "fish":
        script = f"{made.stdout}\ncomplete --do-complete 'captioner caption --model show_t'"
    else:  # it completes only at a prompt, so its input is checked
        script = (
            "compdef() { print $2 }; _arguments() { print -r -- $1 }; CURRENT=4\n"
            f"{made.stdout}\nwords=(captioner caption --model show_t); _captioner_completion"
        )
    arguments = ["--no-config"] if shell == "fish" else ["-f"]
    done = subprocess.run([program, *arguments, "-c", script], env=environment, capture_output=True, text=True)
    assert "show_tell" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("shell", "file"),
    [("bash", ".bashrc")]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in (("zsh", ".zshrc"), ("fish", ".config/fish"))],
)
def test_it_is_installed_for_the_shell_in_use(
    shell: str, file: str, environment: dict[str, str], tmp_path: Path
) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    arguments = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    command = [program, *arguments, "-c", "captioner --install-completion; true"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"{shell} completion installed" in done.stdout
    assert (tmp_path / file).exists()
