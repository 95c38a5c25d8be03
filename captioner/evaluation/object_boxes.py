"""Annotated boxes of objects, and how they cover the regions or cells of a memory.

Letters in shapes: N regions or cells, P points, Q boxes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioner.caption import Array
from captioner.data.dataset import CaptionedImage
from captioner.data.images import upright_size
from captioner.errors import AnnotationError, ImageError, first_line
from captioner.files import read_json

MAX_BOXES_BYTES = 4 << 30
"""Maximum size of a file of boxes; that of COCO's training split has 0.45 GB."""

_ADVICE = "give COCO's boxes, such as instances_val2014.json"

# Standard deviation of the Gaussian baseline, relative to the width and height of the visible part.
SIGMA = 0.25


@dataclass(frozen=True)
class Boxes:
    """The objects of an image.

    Attributes:
        boxes: relative xyxy boxes (Q, 4) of each class without crowd boxes.
        absent: classes not in the image.
        size: width and height of the image in pixels.
    """

    boxes: Mapping[str, Array]
    absent: frozenset[str]
    size: tuple[int, int]


def read_boxes(path: str | Path) -> dict[str, Boxes]:
    """Read COCO's instances by image id.

    Classes with a crowd box, which marks many objects at once, are left out. If an image has ``labelled_categories``,
    other classes may be in the image without a box, and do not count as absent.

    Raises:
        AnnotationError: the file cannot be read as COCO's instances.
    """
    data = read_json(path, dict, error=AnnotationError, advice=_ADVICE, max_bytes=MAX_BOXES_BYTES, encoding="utf-8-sig")
    try:
        names = {category["id"]: str(category["name"]) for category in data["categories"]}
        if len(names) < len(data["categories"]):
            raise ValueError("two of its categories have the same id")
        boxes: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
        crowds: dict[str, set[str]] = defaultdict(set)
        for annotation in data["annotations"]:
            image_id, name = _id(annotation["image_id"]), names[annotation["category_id"]]
            x, y, width, height = map(float, annotation["bbox"])
            if not all(map(math.isfinite, (x, y, width, height))) or width < 0 or height < 0:
                raise ValueError(f"a box of image {image_id} is {annotation['bbox']}")
            if annotation.get("iscrowd"):
                crowds[image_id].add(name)
            else:
                boxes[image_id][name].append([x, y, x + width, y + height])
        boxed, by_image = boxes.keys() | crowds.keys(), {}
        for image in data["images"]:
            image_id = _id(image["id"])
            classes, crowd = boxes.get(image_id, {}), crowds.get(image_id, set())
            size = np.array([image["width"], image["height"]] * 2, dtype=np.float64)
            if not (np.isfinite(size) & (size > 0)).all():
                raise ValueError(f"the size of image {image_id} is {image['width']} x {image['height']}")
            if image_id in by_image:
                raise ValueError(f"two of its images have the id {image_id}")
            labelled = {names[number] for number in image.get("labelled_categories", names)}
            known = {name: np.clip(np.array(rows) / size, 0, 1) for name, rows in classes.items() if name not in crowd}
            absent = frozenset(labelled - classes.keys() - crowd)
            by_image[image_id] = Boxes(known, absent, (round(size[0]), round(size[1])))
        if boxed and boxed.isdisjoint(by_image):
            raise ValueError(f"none of its boxes is of one of its images; they are of images such as {min(boxed)}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise AnnotationError(f"{path}: not readable as COCO's instances ({why}); {_ADVICE}") from None
    return by_image


def turned_images(images: Iterable[CaptionedImage], boxes: Mapping[str, Boxes]) -> dict[str, ImageError]:
    """Return an error for each image that is wide where the file of boxes has it high, or the reverse, by image id.

    A camera may store a photo rotated, and some programs ignore that when they write boxes.
    """
    found: dict[str, ImageError] = {}
    for image in images:
        width, height = boxes[image.image_id].size
        with suppress(ImageError):  # loading the image reports it
            upright = upright_size(image.path)
            if (upright[0] - upright[1]) * (width - height) < 0:
                found[image.image_id] = ImageError(
                    image.path,
                    f"is {upright[0]} x {upright[1]} if upright, and {width} x {height} in the file of boxes; write "
                    "the boxes of the upright image",
                )
    return found


def _id(value: Any) -> str:
    """Return an image id as text; a whole number has no decimal point."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


class Scene:
    """The regions or cells of an image and the boxes of its objects.

    Args:
        regions: (N, 4) boxes of the regions or cells, relative to the visible part.
        boxes: the objects, relative to the whole image.
        seen: the visible part of the image, relative xyxy.

    Attributes:
        regions: (N, 4) boxes relative to the whole image.
        centre: (N,) the weights of the Gaussian baseline, which sum to one.
    """

    def __init__(self, regions: Array, boxes: Boxes, seen: tuple[float, float, float, float]) -> None:
        x0, y0, x1, y1 = seen
        near = np.exp(-((centres(regions) - 0.5) ** 2).sum(1) / (2 * SIGMA**2))
        self.centre = near / near.sum()
        self.regions = regions * [x1 - x0, y1 - y0, x1 - x0, y1 - y0] + [x0, y0, x0, y0]
        self.boxes, self.seen = boxes, np.array(seen)
        self._known: dict[str, tuple[Array, Array, bool] | None] = {}

    def cover(self, name: str) -> tuple[Array, Array, bool] | None:
        """Return how the boxes of a class cover the regions or cells; ``None`` without a visible box.

        Returns:
            The covered share of each (N,); whether its centre lies in a box (N,) bool; whether the centre of the
            visible part does.
        """
        if name not in self._known:
            boxes, cover = self.boxes.boxes.get(name), None
            if boxes is not None and overlaps(self.seen[None], boxes).sum() > 0:
                middle = bool(inside(centres(self.seen[None]), boxes)[0])
                cover = covered(self.regions, boxes), inside(centres(self.regions), boxes), middle
            self._known[name] = cover
        return self._known[name]


def centres(boxes: Array) -> Array:
    """Return the centres (Q, 2) of boxes (Q, 4)."""
    middle: Array = (boxes[:, :2] + boxes[:, 2:]) / 2
    return middle


def inside(points: Array, boxes: Array) -> Array:
    """Return which points (P, 2) lie in at least one of the boxes (Q, 4): (P,) bool."""
    low, high = points[:, None] >= boxes[:, :2], points[:, None] <= boxes[:, 2:]
    hits: Array = np.any(np.all(low & high, axis=-1), axis=-1)
    return hits


def overlaps(regions: Array, boxes: Array) -> Array:
    """Return the area that each region (N, 4) shares with each box (Q, 4): (N, Q)."""
    sides = np.minimum(regions[:, None, 2:], boxes[:, 2:]) - np.maximum(regions[:, None, :2], boxes[:, :2])
    areas: Array = np.clip(sides, 0, None).prod(-1)
    return areas


def covered(regions: Array, boxes: Array) -> Array:
    """Return the share of each region (N, 4) inside the union of boxes (Q, 4): (N,).

    The edges of the boxes divide the plane into rectangles, and the union consists of some of these.
    """
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    union = np.zeros((len(xs) - 1, len(ys) - 1))
    (left, right), (top, bottom) = np.searchsorted(xs, boxes[:, [0, 2]].T), np.searchsorted(ys, boxes[:, [1, 3]].T)
    for x0, y0, x1, y1 in zip(left, top, right, bottom, strict=True):
        union[x0:x1, y0:y1] = 1
    across, down = _shared(regions[:, [0, 2]], xs), _shared(regions[:, [1, 3]], ys)
    areas, shared = (regions[:, 2:] - regions[:, :2]).prod(1), (across @ union * down).sum(1)
    shares: Array = np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0)
    return shares


def _shared(sides: Array, edges: Array) -> Array:
    """Return the length that each side (N, 2) shares with each interval between E sorted edges: (N, E - 1)."""
    lengths: Array = np.minimum(sides[:, 1:], edges[1:]) - np.maximum(sides[:, :1], edges[:-1])
    return lengths.clip(0)
