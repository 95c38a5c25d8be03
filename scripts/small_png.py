"""Small PNG files of images and plots, for the README and the documentation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from captioner import files
from captioner.figures.drawing import rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_png(image: Image.Image | Figure, path: Path, *, colours: int = 64, largest: int | None = None) -> int:
    """Save an image with rounded colours, or a plot with a palette, to make it smaller; return its bytes."""
    out = io.BytesIO()
    reduced = rounded(image) if isinstance(image, Image.Image) else _drawn(image).quantize(colours)
    reduced.save(out, "PNG", optimize=True)
    size = len(out.getvalue())
    if largest is not None and size > largest:
        raise SystemExit(f"{path}: would have {size:,} bytes, more than {largest:,}")
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(out.getvalue())
    return size


def _drawn(figure: Figure) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")
