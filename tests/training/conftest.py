"""A data set and a model small enough to train in a test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from captioner.text.vocabulary import space_characters
from captioner.training.events import Events

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (240, 240, 240)}


def listening() -> tuple[Events, list[str]]:
    """Return events whose notes and warnings are appended to a list."""
    heard: list[str] = []
    return Events(note=heard.append, warn=heard.append), heard


def make_images(folder: Path) -> Path:
    """Make a CSV data set of plain images; captions name the colour, so they can be learned from images alone."""
    rows = ["image,caption,split"]
    for number in range(32):
        colour = list(COLOURS)[number % 4]
        name = f"{number}.png"
        shade = tuple(max(0, value - number // 4) for value in COLOURS[colour])
        Image.new("RGB", (40, 40), shade).save(folder / name)
        split = "train" if number < 24 else "dev"
        rows += [f"{name},a {colour} picture,{split}", f"{name},this one is all {colour},{split}"]
    file = folder / "captions.csv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


def make_tiny(images: Path) -> Path:
    """Make a training config in YAML for those photos."""
    path = images.with_name("tiny.yaml")
    path.write_text(
        f"""
data: {{path: {images}, min_count: 1}}
model:
  encoder: {{name: grid, backbone: test_efficientnet, weights: random, size: 64}}
  decoder: {{name: show_attend_tell, embedding: 16, hidden: 16, attention: 8, values: 16, dropout: 0.2}}
optimiser: {{learning_rate: 0.02}}
average: 0.5
batch_size: 4
epochs: 3
device: cpu
precision: 32-true
""",
        encoding="utf-8",
    )
    return path


def split_words(*groups: Mapping[str, Sequence[str]]) -> list[dict[str, list[str]]]:
    """Tokenise captions that are words and full stops, as the program in Java does."""
    return [
        {
            image: [" ".join(re.findall(r"\w+", space_characters(text).lower())) for text in texts]
            for image, texts in group.items()
        }
        for group in groups
    ]


@pytest.fixture(autouse=True)
def tokeniser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenise without Java, whose start takes longer than an epoch of a tiny model."""
    monkeypatch.setattr("captioner.evaluation.metrics.ptb_tokenize", split_words)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """See :func:`make_images`."""
    return make_images(tmp_path)


@pytest.fixture
def tiny(images: Path) -> Path:
    """See :func:`make_tiny`."""
    return make_tiny(images)
