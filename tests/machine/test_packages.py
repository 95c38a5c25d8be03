"""The extras of pyproject.toml, and the errors that name them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from captioner.errors import ConfigError
from captioner.machine.packages import EXTRAS, install, require

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, list[str]]:
    """Return the packages of each extra in pyproject.toml, and of the base as ``""``."""
    table = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": table["dependencies"], **table["optional-dependencies"]}
    return {
        extra: [re.split(r"[>=<;\\[ ]", each)[0] for each in packages if not each.startswith("captioner[")]
        for extra, packages in groups.items()
    }


@pytest.fixture(scope="module")
def origins() -> Mapping[str, list[str]]:
    """Return the packages that installed each module."""
    return metadata.packages_distributions()


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_modules_of_an_extra_come_from_its_packages(
    extra: str, project: dict[str, list[str]], origins: Mapping[str, list[str]]
) -> None:
    missing = [module for module in EXTRAS[extra] if module not in origins]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed")
    brought = {"starlette", "h11"}  # by other packages
    assert {plain(origins[module][0]) for module in EXTRAS[extra]} == set(map(plain, project[extra])) - brought


def test_all_has_every_extra_of_users(repository: Path, project: dict[str, list[str]]) -> None:
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    (everything,) = tomllib.loads(text)["project"]["optional-dependencies"]["all"]
    names = set(everything.removeprefix("captioner[").removesuffix("]").split(","))
    assert names == set(EXTRAS) == set(project) - {"", "all", "docs", "dev"}


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert install("tensorboard.compat") == "pip install 'captioner[train]'"
    assert install("torch") == "pip install torch"
    require("a task", "json", "re")
    monkeypatch.setitem(sys.modules, "timm", None)
    expected = r"^a task needs the package timm, which is not installed; run: pip install 'captioner\[train\]'$"
    with pytest.raises(ConfigError, match=expected):
        require("a task", "json", "timm", error=ConfigError)
