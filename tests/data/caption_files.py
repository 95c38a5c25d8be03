"""Caption files for the tests of :mod:`captioner.data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from captioner.data.dataset import CaptionData

GOOD_IMAGE = {"id": 1, "file_name": "a.jpg"}
GOOD_CAPTION = {"id": 1, "image_id": 1, "caption": "fine"}
SENTENCES = [{"raw": "x"}]


def write(path: Path, content: object) -> Path:
    """Write text and bytes unchanged, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
    return path


def coco_with(images: list[Any], annotations: list[Any]) -> dict[str, Any]:
    return {"images": [GOOD_IMAGE, *images], "annotations": [GOOD_CAPTION, *annotations]}


def captions_of(data: CaptionData) -> dict[str, tuple[str, ...]]:
    return {image.image_id: image.captions for image in data.images}
