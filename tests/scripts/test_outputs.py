"""The examples of the README and the documentation print what their pages show."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "docs" / "outputs.py"


def load() -> ModuleType:
    """Import the script as a module."""
    spec = importlib.util.spec_from_file_location("docs_outputs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


outputs = load()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(path, id=path.name, marks=[] if path.name == "README.md" else pytest.mark.slow)
        for path in outputs.pages()
    ],
)
def test_examples_print_what_the_page_shows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if "curl " in text and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if outputs.SERVER in text:
        pytest.importorskip("fastapi_offline", reason="the page's packages are not installed: pip install '.[web]'")
    done = subprocess.run([sys.executable, SCRIPT, page], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_and_the_tutorials_have_examples() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in outputs.pages()}
    assert names >= {"README.md", "docs/quickstart.md", "docs/howto/heatmap.md", "docs/howto/serve.md"}


def test_wrong_outputs_are_rewritten() -> None:
    page = (
        "Text\n\n```console\n$ echo 'a b' \\\n    c\nwrong\n$ echo 2.52\n2.57\n```\n\n```pycon\n>>> 1 + 1\n3\n"
        ">>> for word in ('a', 'b'):\n...     print(word)\n...\n```\n\n```sh\nfalse\n```\n"
    )
    assert outputs.rewritten(page) == page.replace("wrong", "a b c").replace("\n3\n", "\n2\n").replace(
        "...\n```", "...\na\nb\n```"
    )


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("a dog -2.57", "a dog -2.52", True),
        ("a dog -2.57", "a dog -3.57", False),
        ("a dog 5.9%", "a cat 5.9%", False),
        ("2 dogs", "3 dogs", False),
        ("1 2", "1", False),
    ],
)
def test_numbers_may_differ_a_little(one: str, other: str, equal: bool) -> None:
    assert outputs.nearly_equal(one, other) is equal


def test_a_command_that_fails_is_reported() -> None:
    with pytest.raises(SystemExit, match="exit 3: exit code 3"):
        outputs.rewritten("```console\n$ exit 3\n```\n")


def test_an_output_that_differs_is_an_error_unless_it_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo a\nb\n```\n", encoding="utf-8")
    done = subprocess.run([sys.executable, SCRIPT, page], capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and "-b\n+a\n" in done.stdout
    assert subprocess.run([sys.executable, SCRIPT, page, "--write"], capture_output=True).returncode == 0
    assert page.read_text(encoding="utf-8") == "```console\n$ echo a\na\n```\n"
