"""The Dockerfile takes what an installation needs, nothing else, and does not run as root."""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


@pytest.fixture(scope="module")
def lines(repository: Path) -> list[str]:
    """Return the instructions, continued lines joined, comments left out."""
    text = (repository / "scripts" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def copied(lines: list[str]) -> set[str]:
    words = (line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line)
    return {name for names in words for name in names}


def test_it_copies_what_the_build_needs(lines: list[str], repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {"pyproject.toml", project["project"]["readme"], "LICENSE"}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    assert copied(lines) == needed
    assert all((repository / name).exists() for name in needed)


def test_nothing_else_is_sent_to_the_build(lines: list[str], repository: Path) -> None:
    ignored = (repository / "scripts" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[next(number for number, line in enumerate(ignored) if line[:1] != "#")] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied(lines)
    # What is left out of the folders is what the wheel leaves out, too.
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    excluded = [line for line in ignored if line[:1] not in ("#", "!", "*")]
    assert excluded == project["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"]
    assert not any(
        fnmatch(f"assets/{path.name}", name) for name in excluded for path in (repository / "assets").glob("s*")
    )


def test_it_runs_as_an_ordinary_user_from_a_pinned_base(lines: list[str]) -> None:
    (base,) = (line.partition("=")[2] for line in lines if line.startswith("ARG BASE="))
    found = re.fullmatch(r"python:3\.(\d+)-slim-\w+", base)
    assert found and int(found[1]) >= 10
    last = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM")) :]
    users = [line.split()[1] for line in last if line.startswith("USER")]
    assert users and users[-1].split(":")[0] not in ("0", "root")
    installs = [line for line in lines if "pip install" in line]
    assert installs and all("--no-cache-dir" in line for line in installs)
    assert 'ENTRYPOINT ["captioner"]' in last and 'CMD ["--help"]' in last
    assert any("HOME=/tmp" in line for line in last)
