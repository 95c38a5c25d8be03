"""Make the figures of the documentation, from the shipped models and the example images: docs/figures.

Example: python scripts/docs/figures.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diagrams

from captioner import Caption, Captioner, files
from captioner.figures import figure

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, FIGURES = ROOT / "assets" / "examples", ROOT / "docs" / "figures"
QUALITY = 80
# Of a figure on a page as wide as its text, and on a phone, whose letters are larger.
SIZES: dict[str, dict[str, Any]] = {"": {"width": 1400}, "_phone": {"width": 780, "letters": 1.8}}
IMAGE = "dog.jpg"


def save(result: Caption, name: str) -> None:
    """Save the figures of a caption and print their sizes."""
    for suffix, style in SIZES.items():
        path = FIGURES / f"{name}{suffix}.webp"
        with files.atomic_path(path) as temporary:
            figure(result, **style).image().save(temporary, "WEBP", quality=QUALITY, method=6)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def caption(model: str, image: str, attention: str = "mean") -> Caption:
    """Caption an example with a shipped model."""
    return Captioner.from_pretrained(model)(EXAMPLES / image, attention=attention)


def heads(result: Caption, word: str) -> Caption:
    """Return a caption whose "words" are the heads of a Transformer, with the attention of each to one word."""
    assert result.heads is not None
    weights = result.heads[result.tokens.index(word)]
    names = [f"{block}.{head}" for block in range(1, len(weights) + 1) for head in range(1, len(weights[0]) + 1)]
    return replace(result, text=f"“{word}”, by every head", tokens=names, attention=weights.reshape(len(names), -1))


def main() -> None:
    """Draw all figures."""
    diagrams.main()
    captions = {
        "soft": caption("show_attend_tell", IMAGE),
        "regions": caption("regions_top_down", "horses.jpg"),
        "heads": heads(caption("transformer", IMAGE, "heads"), "grass"),
    }
    for name, result in captions.items():
        save(result, name)


if __name__ == "__main__":
    main()
