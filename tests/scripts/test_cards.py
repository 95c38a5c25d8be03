"""Cards and the README's tables say what the models' own JSON says, and every shipped model loads."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from captioner import Captioner
from captioner.assets import CAPTIONER, kind_of, shipped
from captioner.checkpoint import CARD
from tests.data.pictures import scene


def load(repository: Path, name: str) -> ModuleType:
    """Import a script as a module."""
    spec = importlib.util.spec_from_file_location(name, repository / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_card_is_written_from_its_config(name: str, repository: Path) -> None:
    folder = shipped()[name]
    assert (folder / CARD).read_text(encoding="utf-8") == load(repository, "cards").card(folder)


def test_the_readmes_tables_are_written_from_json(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    for name, inside in load(repository, "readme").sections().items():
        assert f"<!-- {name}:begin -->\n{inside}\n<!-- {name}:end -->" in readme


def test_the_readme_names_every_shipped_captioner(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in readme for name in shipped())


@pytest.mark.parametrize("name", sorted(name for name, folder in shipped(None).items() if kind_of(folder) == CAPTIONER))
def test_every_shipped_captioner_captions(name: str) -> None:
    picture: Image.Image = scene()
    assert Captioner.from_pretrained(name, width=1)(picture).text
