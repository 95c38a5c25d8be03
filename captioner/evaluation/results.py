"""Captions in COCO's results format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from captioner.errors import EvaluationError
from captioner.files import read_json, write_json

MAX_RESULTS_BYTES = 1 << 30
"""Maximum size of a results file; those of COCO's test split have 4 MB."""


def coco_results(captions: Mapping[str, str]) -> list[dict[str, int | str]]:
    """Return captions in COCO's results format: ``[{"image_id": 391895, "caption": "a dog"}, ...]``.

    A numeric id becomes a number, as COCO's tools expect; leading zeros are lost.

    Raises:
        EvaluationError: two ids become the same number, or an id or a caption is not a string.
    """
    results: dict[int | str, dict[str, int | str]] = {}
    for image, caption in captions.items():
        require_text(image, "an image id")
        require_text(caption, f"the caption of image {image!r}")
        number: int | str = int(image) if image.isascii() and image.isdigit() else image
        if number in results:
            raise EvaluationError(
                f"image {image!r}: another id is the same number; COCO needs ids that differ as numbers"
            )
        results[number] = {"image_id": number, "caption": caption}
    return list(results.values())


def write_results(path: str | Path, captions: Mapping[str, str]) -> None:
    """Write captions by image id as a COCO results file, atomically; see :func:`coco_results`."""
    write_json(path, coco_results(captions))


def read_results(path: str | Path) -> dict[str, str]:
    """Read captions by image id from a COCO results file.

    Raises:
        EvaluationError: the file cannot be read, is not COCO results, or captions an image twice.
    """
    expected = 'give COCO results: [{"image_id": 1, "caption": "a dog"}, ...]'
    results = read_json(path, list, error=EvaluationError, cure=expected, most=MAX_RESULTS_BYTES, encoding="utf-8-sig")
    captions: dict[str, str] = {}
    for number, result in enumerate(results, start=1):
        if not isinstance(result, dict) or not {"image_id", "caption"} <= result.keys():
            raise EvaluationError(f'{path}: entry {number} has no "image_id" and "caption"; {expected}')
        image, caption = result["image_id"], result["caption"]
        if isinstance(image, float) and image.is_integer():  # pandas writes such ids if some are missing
            image = int(image)
        if isinstance(image, bool) or not isinstance(image, int | str):
            raise EvaluationError(
                f"{path}: entry {number} has image_id {image!r}; it must be a whole number or a string"
            )
        if not isinstance(caption, str):
            kind = _json_type(caption)
            raise EvaluationError(f"{path}: the caption of image {image!r} is a JSON {kind}; it must be a string")
        if str(image) in captions:
            raise EvaluationError(f"{path}: image {image!r} is captioned twice; keep one caption per image")
        captions[str(image)] = caption
    return captions


def require_text(caption: object, name: str) -> None:
    """Raise an :class:`EvaluationError` about ``name`` if the caption is not a string."""
    if not isinstance(caption, str):
        raise EvaluationError(f"{name} is {caption!r}, of type {type(caption).__name__}; it must be a string")


def _json_type(value: object) -> str:
    return {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
