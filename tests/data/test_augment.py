"""Crops and colours against Pillow's and torchvision's own, erasing against a loop over pixels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms.v2 import functional as reference

from captioner.data.augment import AugmentConfig, View, apply_views, crop_maps, draw_erased, draw_view, erase, recolour
from captioner.data.loader import load_groups
from captioner.data.transform import WHOLE, Transform
from captioner.encoders.grid_regions import StackedTransform
from captioner.errors import ConfigError
from captioner.memory import Memory
from captioner.settings import validate
from tests.data.images import MEAN, STD, scene


def test_colours_are_changed_as_torchvision_changes_them() -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8)
    colours = [(1.3, 0.6, 0.5), (0.7, 1.4, 1.5), (1.0, 1.0, 1.0)]
    expected = []
    for image, (brightness, contrast, saturation) in zip(pixels, colours, strict=True):
        changed = reference.adjust_brightness(image.float() / 255, brightness)
        changed = reference.adjust_contrast(changed, contrast)
        expected.append(reference.adjust_saturation(changed, saturation))
    difference = recolour(pixels, colours).float() - 255 * torch.stack(expected)
    assert difference.abs().max() < 0.6  # rounded once, at the end
    assert torch.equal(recolour(pixels, colours)[2], pixels[2])


def test_crops_have_the_requested_share_and_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    views = [draw_view(AugmentConfig(crop=0.5, colour=0.2), generator) for _ in range(2000)]
    boxes = torch.tensor([view.box for view in views])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes.max() <= 1
    uncut = (width < 1) & (height < 1)
    area, shape = (width * height)[uncut], (width / height)[uncut]
    assert area.min() >= 0.5 - 1e-6 and area.max() < 1
    assert shape.min() >= 3 / 4 - 1e-6 and shape.max() <= 4 / 3 + 1e-6
    factors = torch.tensor([view.colour for view in views])
    assert factors.min() >= 0.8 and factors.max() <= 1.2 and (factors.mean(0) - 1).abs().max() < 0.02


def test_without_crops_a_view_is_the_whole_image() -> None:
    view = draw_view(AugmentConfig(), torch.Generator().manual_seed(0))
    assert view.box == (0.0, 0.0, 1.0, 1.0) and view.colour == (1.0, 1.0, 1.0)
    assert not AugmentConfig().active
    assert all(AugmentConfig(**one).active for one in ({"colour": 0.1}, {"crop": 0.9}, {"erase": 0.5}))


def test_pixels_are_erased_as_a_loop_erases_them() -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    boxes = [(0.25, 0.5, 0.75, 1.0), None, (0.0, 0.0, 1.0, 0.1), (0.9, 0.3, 0.95, 0.35)]
    expected = pixels.clone()
    for image, box in zip(expected, boxes, strict=True):
        for y in range(16):
            for x in range(16):
                left, top, right, bottom = (round(16 * corner) for corner in box or (0, 0, 0, 0))
                if left <= x < right and top <= y < bottom:
                    for channel in range(3):
                        image[channel, y, x] = round(255 * MEAN[channel])
    assert torch.equal(erase(pixels, boxes, MEAN), expected)
    assert not torch.equal(expected[0], pixels[0]) and torch.equal(expected[1], pixels[1])
    blank = Transform(size=16, mean=MEAN, std=STD).normalise(erase(pixels, [WHOLE] * 4, MEAN))
    assert blank.abs().max() <= 0.5 / 255 / min(STD) + 1e-6


def test_erased_parts_have_the_requested_share_area_and_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    config = AugmentConfig(erase=0.4, erase_area=(0.05, 0.3))
    drawn = [draw_erased(config, generator) for _ in range(5000)]
    boxes = torch.tensor([box for box in drawn if box is not None])
    assert abs(len(boxes) / 5000 - 0.4) < 0.03
    assert boxes.min() >= 0 and boxes.max() <= 1
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, shape = width * height, width / height
    assert area.min() >= 0.05 - 1e-6 and area.max() <= 0.3 + 1e-6 and abs(area.mean() - 0.175) < 0.01
    assert shape.min() >= 0.3 - 1e-6 and shape.max() <= 1 / 0.3 + 1e-6 and abs(shape.log().mean()) < 0.05
    assert ((boxes[:, :2] + boxes[:, 2:]).mean(0) / 2 - 0.5).abs().max() < 0.02
    wide = AugmentConfig(erase=1, erase_area=(1.0, 1.0))
    cut = [draw_erased(wide, generator) for _ in range(50)]
    assert all(box is not None and math.isclose(max(box[2] - box[0], box[3] - box[1]), 1) for box in cut)


def test_erasing_leaves_the_other_draws_as_they_are() -> None:
    def draw(**settings: float) -> tuple[View, torch.Tensor]:
        generator = torch.Generator().manual_seed(7)
        return draw_view(AugmentConfig(crop=0.6, colour=0.2, **settings), generator), generator.get_state()

    generator = torch.Generator().manual_seed(7)
    torch.rand(7, generator=generator, dtype=torch.float64)
    plain, after = draw()
    assert plain.erased is None and torch.equal(after, generator.get_state())
    assert draw(erase=1.0)[0][:2] == plain[:2] and draw(erase=1.0)[0].erased is not None
    assert draw(erase=1e-9)[0] == plain


def test_images_at_two_sizes_lose_the_same_part() -> None:
    torch.manual_seed(0)
    other = (0.1, 0.2, 0.3)
    both = StackedTransform.of(Transform(size=16, mean=MEAN, std=STD), Transform(size=8, mean=other, std=STD))
    pixels = torch.randint(0, 256, (2, *both.shape), dtype=torch.uint8)
    views = [View(WHOLE, (1.0, 1.0, 1.0), (0.25, 0.25, 0.75, 1.0)), View(WHOLE, (1.0, 1.0, 1.0))]
    boxes = [view.erased for view in views]
    for varied, plain, mean in zip(
        both.split(apply_views(pixels, views, both)), both.split(pixels), (MEAN, other), strict=True
    ):
        assert torch.equal(varied, erase(plain, boxes, mean)) and not torch.equal(varied[0], plain[0])


@pytest.mark.parametrize("area", [(0.0, 0.4), (0.3, 0.2), (0.1, 1.1)])
def test_areas_that_cannot_be_erased_are_refused(area: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="erase_area: give two shares"):
        validate(AugmentConfig, {"erase": 0.5, "erase_area": area}, where="data.augment")


@pytest.mark.parametrize(
    ("box", "corners"), [((0.25, 0.5, 0.75, 1.0), (16, 24, 48, 48)), ((1, 1, 1, 1), (63, 47, 64, 48))]
)
def test_the_loader_cuts_the_requested_crop(box: tuple[float, ...], corners: tuple[int, ...]) -> None:
    transform = Transform(size=8, mean=MEAN, std=STD)
    image = scene(64, 48)
    left, top, right, bottom = box
    [batch] = load_groups([[image, image]], transform, crops=[[(left, top, right, bottom), (0.0, 0.0, 1.0, 1.0)]])
    x0, y0, x1, y1 = corners
    assert torch.equal(batch.pixels[0], torch.from_numpy(transform.pixels(image.crop((x0, y0, x1, y1)))))
    assert torch.equal(batch.pixels[1], torch.from_numpy(transform.pixels(image)))


def test_maps_are_cropped_like_the_image() -> None:
    """On maps that hold where each cell is, a crop holds where its cells are, within the outermost centres."""
    rows, columns, size = torch.arange(6.0), torch.arange(8.0), (6, 8)
    where = torch.stack(torch.meshgrid((rows + 0.5) / 6, (columns + 0.5) / 8, indexing="ij"), dim=-1).flatten(0, 1)
    memory = Memory.of_grid(where.expand(3, -1, -1).half(), size)
    boxes = [(0.0, 0.0, 1.0, 1.0), (0.25, 0.5, 0.75, 1.0), (0.1, 0.2, 0.55, 0.6)]
    cropped = crop_maps(memory, boxes)
    assert cropped.grid == size and cropped.vectors.dtype == torch.float16
    assert torch.equal(cropped.pooled, cropped.vectors.mean(1))
    for maps, (left, top, right, bottom) in zip(cropped.vectors.float().unflatten(1, size), boxes, strict=True):
        for r in range(6):
            for c in range(8):
                y, x = top + (r + 0.5) / 6 * (bottom - top), left + (c + 0.5) / 8 * (right - left)
                expected = torch.tensor([min(max(y, 0.5 / 6), 5.5 / 6), min(max(x, 0.5 / 8), 7.5 / 8)])
                torch.testing.assert_close(maps[r, c], expected, rtol=0, atol=2e-3)


def test_only_crops_of_grids_can_be_stored() -> None:
    assert AugmentConfig(crop=0.5).of_images and not AugmentConfig(crop=0.5, stored=True).of_images
    with pytest.raises(ConfigError, match="stored maps can only be cropped"):
        validate(AugmentConfig, {"colour": 0.2, "stored": True}, where="recipe")
    with pytest.raises(ConfigError, match=r"data\.augment\.stored: the features are not a grid"):
        crop_maps(Memory(torch.zeros(1, 4, 2), torch.zeros(1, 2)), [(0.0, 0.0, 1.0, 1.0)])


@pytest.mark.parametrize(
    ("setting", "accepted", "refused"),
    [
        ("crop", (0.01, 1), (0, 1.01)),
        ("colour", (0, 0.99), (-0.01, 1)),
        ("erase", (0, 1), (-0.01, 1.01)),
        ("erase_area", ((0.01, 0.01), (0.5, 1)), ((0, 0.5), (0.5, 0.4), (0.5, 1.01))),
    ],
)
def test_settings_have_limits(setting: str, accepted: tuple[Any, ...], refused: tuple[Any, ...]) -> None:
    for value in accepted:
        assert getattr(AugmentConfig(**{setting: value}), setting) == value
    for value in refused:
        with pytest.raises(ValidationError, match=setting):
            AugmentConfig(**{setting: value})


def test_any_setting_makes_it_active() -> None:
    assert not AugmentConfig().active and not AugmentConfig().of_images
    for settings in ({"crop": 0.9}, {"colour": 0.1}, {"erase": 0.1}):
        assert AugmentConfig(**settings).active and AugmentConfig(**settings).of_images
    assert AugmentConfig(crop=0.9, stored=True).active
