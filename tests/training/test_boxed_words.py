"""Words that name boxed objects, and where their boxes are in crops and mirrored images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from captioner.data.augment import View
from captioner.data.batches import Sample
from captioner.data.dataset import CaptionedImage
from captioner.data.transform import Box, Transform
from captioner.errors import AnnotationError
from captioner.evaluation.object_boxes import Boxes
from captioner.training.boxed_words import BoxedWords

SIZE = (200, 100)
DOG = (0.1, 0.2, 0.35, 0.8)
SQUASH = Transform(size=80, fit="squash", mean=(0, 0, 0), std=(1, 1, 1))
CROP = Transform(size=80, fit="crop", mean=(0, 0, 0), std=(1, 1, 1))
COLOURS = (1.0, 1.0, 1.0)


def image(*captions: str, image_id: str = "7") -> CaptionedImage:
    return CaptionedImage(image_id, Path(f"{image_id}.jpg"), "train", captions)


def boxed(transform: Transform = SQUASH, *captions: str, **objects: Box) -> BoxedWords:
    boxes = Boxes({name: np.array([box]) for name, box in objects.items()}, frozenset({"cat"}), SIZE)
    return BoxedWords([image(*captions)], {"7": boxes}, transform, max_words=6)


def test_words_that_name_boxed_classes_are_found() -> None:
    captions = ["Two dogs sit.", "A cat and a fire truck", "one two three four five six dog"]
    objects = {"dog": DOG, "truck": (0.0, 0.0, 1.0, 1.0)}
    words = boxed(SQUASH, *captions, **objects)
    sample = Sample([0, 0], [False, False], [[1, 0], [2]])
    found = [
        (word.image, word.caption, word.word, word.boxes.tolist()) for word in words.batch(sample, from_pixels=True)
    ]
    truck = [list(objects["truck"])]
    # Of captions 1 and 0: both words of the fire truck, and the dogs. The cat has no box, the last dog is cut off.
    assert found == [(0, 0, 4, truck), (0, 0, 5, truck), (0, 1, 1, [list(DOG)])]
    assert (words.words, len(words.images)) == (3, 1)


@pytest.mark.parametrize("transform", [SQUASH, CROP])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("crop", [(0.0, 0.0, 1.0, 1.0), (0.05, 0.1, 0.75, 0.9), (0.2, 0.0, 0.9, 0.6)])
def test_boxes_are_where_a_drawn_object_is_seen(transform: Transform, flipped: bool, crop: Box) -> None:
    """Draw the object, transform the image as training does, and measure where its pixels are."""
    width, height = SIZE
    x0, y0, x1, y1 = DOG
    whole = Image.new("L", SIZE)
    ImageDraw.Draw(whole).rectangle([x0 * width, y0 * height, x1 * width - 1, y1 * height - 1], fill=255)
    views = [View(crop, COLOURS)]
    for from_pixels in (True, False):
        words = boxed(transform, "a dog", dog=DOG)
        found = words.batch(Sample([0], [flipped], [[0]], views), from_pixels=from_pixels)
        drawn = whole
        if from_pixels:  # crop, transform, mirror
            drawn = drawn.crop(tuple(round(c * s) for c, s in zip(crop, SIZE * 2, strict=True)))
        pixels = Image.fromarray(transform.pixels(drawn.convert("RGB"))[0])
        if flipped:
            pixels = ImageOps.mirror(pixels)
        if not from_pixels:  # transform, mirror, crop of the maps
            pixels = pixels.resize((80, 80), box=tuple(c * 80 for c in crop))
        lit = np.argwhere(np.asarray(pixels) > 127)
        if not len(lit):
            assert not found
            continue
        (top, left), (bottom, right) = lit.min(0), lit.max(0) + 1
        np.testing.assert_allclose(found[0].boxes, [[left / 80, top / 80, right / 80, bottom / 80]], atol=0.025)


def test_useless_boxes_are_reported(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 7, "width": 10, "height": 10}],
        "annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    assert BoxedWords.read(path, [image("a dog")], SQUASH, max_words=9).words == 1
    with pytest.raises(AnnotationError, match=r"boxes.json: has boxes for 0 of 1 .* ids must be the same"):
        BoxedWords.read(path, [image("a dog", image_id="8")], SQUASH, max_words=9)
    with pytest.raises(AnnotationError, match=r"has boxes for 1 of 1 .* no caption names an object with a box"):
        BoxedWords.read(path, [image("a cat")], SQUASH, max_words=9)
