from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from captioner.benchmark.captions import GeneratedCaptions
from captioner.benchmark.contestants import Contestant
from captioner.benchmark.cost import ModelCost, summarise
from captioner.benchmark.quality import Quality, assess
from captioner.benchmark.worker import About
from captioner.data.dataset import CaptionData, CaptionedImage

WORDS = (
    "a dog runs on grass",
    "two men ride red bikes",
    "a cat sleeps",
    "children play with a big ball on the sand",
    "a boat",
    "people eat at a table",
)
DATA = CaptionData(
    "toys",
    "jsonl",
    tuple(
        CaptionedImage(str(n), Path(f"{n}.jpg"), "dev", (text, f"there is {text} today"))
        for n, text in enumerate(WORDS)
    ),
)
POOR = (*WORDS[3:], *WORDS[:3])
MIDDLING = (*WORDS[:3], "a dog", "a table", "a man")


def compare(
    *outputs: Sequence[str | None], recipes: Sequence[tuple[str, int]] = (), training: CaptionData | None = None
) -> Quality:
    """Assess models "a", "b", "c" with these captions of the images, ``None`` for an unreadable image."""
    names = "abcdefg"[: len(outputs)]
    trained = recipes or [(None, None)] * len(outputs)
    contestants = [Contestant(name, Path(name), *recipe) for name, recipe in zip(names, trained, strict=True)]
    captions = {
        name: {str(n): text for n, text in enumerate(texts) if text is not None}
        for name, texts in zip(names, outputs, strict=True)
    }
    unreadable = {f"{n}.jpg: it is broken": None for texts in outputs for n, text in enumerate(texts) if text is None}
    return assess(
        contestants,
        GeneratedCaptions(captions, unreadable),
        DATA,
        training=training,
        metrics=("BLEU", "CIDEr"),
        resamples=200,
    )


@pytest.fixture(scope="session")
def quality() -> Quality:
    """Quality of three models: one repeats a reference, one is poor, one middling."""
    return compare(WORDS, POOR, MIDDLING)


def canned_cost(batches: Sequence[int] = (1, 16), scale: float = 1.0) -> ModelCost:
    """Return a cost without timing anything."""
    memory = {size: 500.0 + 25 * size for size in batches}
    about = About(4_000_000, 2_000_000, 20.0, memory, 300.0, None, "cpu", 2, 5, [])
    seconds = np.random.default_rng(0).uniform(0.01, 0.02, (len(batches), 10, 2))
    return ModelCost(about, summarise(batches, scale * seconds, seconds))


@pytest.fixture(scope="session")
def costs() -> dict[str, ModelCost]:
    return {name: canned_cost(scale=scale) for scale, name in enumerate("abc", start=1)}
