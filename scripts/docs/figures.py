"""Make the figures of the documentation again, from the shipped models and the example images: docs/figures.

Example: python scripts/docs/figures.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diagrams

from captioner import Caption, Captioner, files
from captioner.figures import figure

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, FIGURES = ROOT / "assets" / "examples", ROOT / "docs" / "figures"
WIDTH, QUALITY = 1400, 80
IMAGE = "dog.jpg"


def save(result: Caption, name: str) -> None:
    """Save the figure of a caption and print its size."""
    path = FIGURES / f"{name}.webp"
    with files.atomic_path(path) as temporary:
        figure(result, width=WIDTH).image().save(temporary, "WEBP", quality=QUALITY, method=6)
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
