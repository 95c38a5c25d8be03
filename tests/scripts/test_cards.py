"""Cards are those that the script writes from the models' JSON, and every shipped model loads."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from captioner import Captioner
from captioner.data.images import load_image
from captioner.store import CAPTIONER, CARD, DETECTOR, TRANSLATOR, kind_of, shipped
from tests.data.images import scene


def load(repository: Path, name: str) -> ModuleType:
    """Import a script as a module."""
    spec = importlib.util.spec_from_file_location(name, repository / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, {name: module}):  # where a dataclass looks its annotations up
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(shipped(None)))
def test_a_card_is_written_from_its_config(name: str, repository: Path) -> None:
    folder = shipped(None)[name]
    cards = load(repository, "cards")
    write = {CAPTIONER: cards.card, DETECTOR: cards.detector_card, TRANSLATOR: cards.translator_card}
    assert (folder / CARD).read_text(encoding="utf-8") == write[kind_of(folder)](folder)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_captioner_captions(name: str) -> None:
    image: Image.Image = scene()
    assert Captioner.from_pretrained(name, width=1)(image).text


def test_the_shipped_detector_finds_what_an_example_shows(repository: Path) -> None:
    from captioner.encoders import RegionConfig, RegionEncoder

    encoder = RegionEncoder(RegionConfig())
    pixels = torch.from_numpy(encoder.transform.pixels(load_image(repository / "assets" / "examples" / "horses.jpg")))
    (found,) = encoder.detect(pixels.unsqueeze(0))
    assert encoder.classes[int(found.labels[0])] == "horse" and found.scores[0] > 0.5
