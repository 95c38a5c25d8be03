"""The example images that come with the program."""

from __future__ import annotations

from pathlib import Path

import captioner
from captioner.data.find import IMAGE_EXTENSIONS


def example_images() -> list[Path]:
    """Return the example images, sorted by name; those of the checkout if the program runs from one."""
    package = Path(captioner.__file__).parent
    for root in (package, package.parent):
        folder = root / "assets" / "examples"
        if found := sorted(path for path in folder.glob("*") if path.suffix in IMAGE_EXTENSIONS):
            return found
    return []
