"""Captions in COCO's results format, and the images of a data set that they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from captioner.data.dataset import UNDIVIDED, CaptionData
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
        EvaluationError: the file cannot be read, is not COCO results, captions an image twice, or has a caption that
            cannot be encoded.
    """
    expected = 'give COCO results: [{"image_id": 1, "caption": "a dog"}, ...]'
    results = read_json(
        path, list, error=EvaluationError, advice=expected, max_bytes=MAX_RESULTS_BYTES, encoding="utf-8-sig"
    )
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
        if any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise EvaluationError(
                f"{path}: the caption of image {image!r} has half a surrogate pair, which is not a character; "
                "write the file again as UTF-8"
            )
        captions[str(image)] = caption
    return captions


@dataclass(frozen=True)
class MatchedCaptions:
    """Captions of any program, matched to the images of a data set.

    Attributes:
        captions: captions by the data's image ids, in the order of the data.
        unknown: an error about captions of images that the data does not have, if there are any.
        missing: an error about images of the data without a caption, if there are any.
    """

    captions: dict[str, str]
    unknown: EvaluationError | None
    missing: EvaluationError | None


def match_images(captions: Mapping[str, str], data: CaptionData, source: str) -> MatchedCaptions:
    """Match captions to the images of a data set that have references.

    Leading zeros of numeric image ids are ignored, because COCO's results have numbers, and so is the form of Unicode.

    Args:
        captions: captions by image id.
        data: the data set, or a split of one.
        source: name of the captions in errors, for example their file.

    Raises:
        EvaluationError: none of the captions belongs to an image of the data, two belong to the same image, or the data
            has no references.
    """
    ids = [image.image_id for image in data.images if image.captions]
    if not ids:
        raise EvaluationError(f"{data.name}: its images have no reference captions; give data that has some")
    uses = Counter(map(_plain, ids))

    def key(image: str) -> str:  # ids of the data that differ only in their spelling must match exactly
        return image if uses[_plain(image)] > 1 else _plain(image)

    by_key: dict[str, str] = {}
    for image in captions:
        if (other := by_key.setdefault(key(image), image)) != image:
            raise EvaluationError(f"{source}: images {other!r} and {image!r} are the same one; keep one of them")
    matches = {image: captions[by_key[key(image)]] for image in ids if key(image) in by_key}
    known = {key(image) for image in ids}
    unknown = [image for image in captions if key(image) not in known]
    splits = {image.split for image in data.images} - {UNDIVIDED}
    where = f"{data.name}, {splits.pop()}" if len(splits) == 1 else data.name
    if not matches:
        raise EvaluationError(
            f"{source}: no caption is of an image of {where}; its captions are of {_some(unknown) or 'nothing'}, "
            f"the images are {_some(ids)}"
        )
    missing = [image for image in ids if image not in matches]
    all_ids = {_plain(image.image_id) for image in data.images}
    lacks = "has no references of" if any(_plain(image) in all_ids for image in unknown) else "does not have"
    return MatchedCaptions(
        matches,
        EvaluationError(f"{source}: {len(unknown):,} captions are of images that {where} {lacks}: {_some(unknown)}")
        if unknown
        else None,
        EvaluationError(f"{source}: {len(missing):,} of {len(ids):,} images have no caption: {_some(missing)}")
        if missing
        else None,
    )


def require_text(caption: object, name: str) -> None:
    """Raise an :class:`EvaluationError` about ``name`` if the caption is not a string."""
    if not isinstance(caption, str):
        raise EvaluationError(f"{name} is {caption!r}, of type {type(caption).__name__}; it must be a string")


def _plain(image: str) -> str:
    """Return an image id without leading zeros, and in one form of Unicode."""
    if not image.isascii():
        return normalize("NFC", image)
    return image.lstrip("0") or "0" if image.isdigit() else image


def _some(images: Sequence[str]) -> str:
    return ", ".join(map(repr, images[:3])) + (", ..." if len(images) > 3 else "")


def _json_type(value: object) -> str:
    return {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
