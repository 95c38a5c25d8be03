"""Transforms of images, against Pillow and torchvision's rules."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from captioner.data.images import load_image
from captioner.data.transform import CombinedTransform, Transform
from tests.data.images import MEAN, STD, encode, scene


def test_squash_equals_pillow() -> None:
    image = scene(301, 177)
    for interpolation in ("bicubic", "bilinear", "lanczos"):
        transform = Transform(size=64, interpolation=interpolation, mean=MEAN, std=STD)
        expected = np.asarray(image.resize((64, 64), Image.Resampling[interpolation.upper()])).transpose(2, 0, 1)
        pixels = transform.pixels(image)
        assert pixels.dtype == np.uint8 and pixels.transpose(1, 2, 0).flags["C_CONTIGUOUS"]
        assert np.array_equal(pixels, expected)
        assert transform.visible_box(image.size) == (0, 0, 1, 1)


@pytest.mark.parametrize("size", [(301, 177), (177, 301), (64, 64), (30, 500), (73, 73), (1000, 999)])
@pytest.mark.parametrize("fraction", [1.0, 0.875, 0.95])
def test_crop_equals_resizing_and_then_cropping(size: tuple[int, int], fraction: float) -> None:
    image, (width, height) = scene(*size), size
    short = round(64 / fraction)
    if width <= height:  # the rule of torchvision's Resize and CenterCrop, which takes seconds to import
        whole = image.resize((short, int(short * height / width)), Image.Resampling.BICUBIC)
    else:
        whole = image.resize((int(short * width / height), short), Image.Resampling.BICUBIC)
    left, top = round((whole.width - 64) / 2), round((whole.height - 64) / 2)
    expected = np.asarray(whole.crop((left, top, left + 64, top + 64))).transpose(2, 0, 1).astype(int)
    transform = Transform(size=64, fit="crop", crop_fraction=fraction, mean=MEAN, std=STD)
    difference = np.abs(transform.pixels(image) - expected)  # Pillow keeps a box in single precision
    assert difference.max() <= 2 and difference.mean() < 0.05


def test_the_seen_part_is_that_of_the_pixels() -> None:
    transform = Transform(size=50, fit="crop", crop_fraction=0.5, mean=MEAN, std=STD)
    x0, y0, x1, y1 = transform.visible_box((400, 200))
    assert (x0, y0, x1, y1) == (0.375, 0.25, 0.625, 0.75)
    image = Image.new("RGB", (400, 200), "black")
    image.paste("white", (round(x0 * 400), round(y0 * 200), round(x1 * 400), round(y1 * 200)))
    assert transform.pixels(image)[:, 2:-2, 2:-2].min() == 255
    wider = image.crop((100, 50, 300, 150))
    assert transform.pixels(Image.new("RGB", (400, 200), "black")).max() == 0 and wider.getpixel((0, 0)) == (0, 0, 0)
    left, top, right, bottom = transform.visible_box((3, 100_000))
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 3_000_000), (3_000_000, 1), (2, 700)])
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_tiny_and_very_long_images_need_no_memory(size: tuple[int, int], fit: Any) -> None:
    transform = Transform(size=64, fit=fit, crop_fraction=0.9, mean=MEAN, std=STD)
    start = time.monotonic()
    pixels = transform.pixels(Image.new("RGB", size, (10, 20, 30)))
    assert (pixels.min(axis=(1, 2)) == pixels.max(axis=(1, 2))).all() and pixels[:, 0, 0].tolist() == [10, 20, 30]
    assert time.monotonic() - start < 2


def test_normalise_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    transform = Transform(size=32, mean=MEAN, std=STD)
    batch = torch.from_numpy(np.stack([transform.pixels(scene(seed=seed)) for seed in range(2)]))
    before = batch.clone()
    values = transform.normalise(batch)
    assert values.dtype == torch.float32 and torch.equal(batch, before)
    exact = [(batch[:, channel].double() / 255 - MEAN[channel]) / STD[channel] for channel in range(3)]
    assert torch.allclose(values.double(), torch.stack(exact, dim=1), atol=1e-6)


@pytest.mark.parametrize(
    "setting",
    [{"size": 0}, {"fit": "stretch"}, {"crop_fraction": 0}, {"crop_fraction": 1.1}, {"std": (0, 1, 1)}, {"colour": 1}],
)
def test_an_invalid_transform_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Transform(**({"mean": MEAN, "std": STD} | setting))


def test_a_transform_survives_json_and_cannot_change() -> None:
    transform = Transform(size=224, fit="crop", crop_fraction=0.875, mean=MEAN, std=STD)
    assert Transform.model_validate_json(transform.model_dump_json()) == transform
    with pytest.raises(ValidationError):
        transform.size = 3  # type: ignore[misc]


def test_reduced_decoding_hardly_changes_the_input() -> None:
    content = encode(scene(2000, 1500), "JPEG", quality=95)
    transform = Transform(size=224, mean=MEAN, std=STD)
    reduced = load_image(content, min_size=transform.decode_size)
    assert reduced.size == (1000, 750)
    difference = np.abs(transform.pixels(reduced).astype(int) - transform.pixels(load_image(content)))
    assert difference.max() <= 6 and difference.mean() < 1


def test_combined_transforms_equal_each_alone() -> None:
    parts = [
        Transform(size=64, fit="crop", crop_fraction=0.875, mean=MEAN, std=STD),
        Transform(size=96, mean=MEAN, std=STD),
        Transform(size=32, mean=STD, std=MEAN),
    ]
    inner = CombinedTransform.of(parts[:2])
    together, image = CombinedTransform.of([inner, parts[2]]), scene(301, 177)
    assert together.shape == (3, 64 + 96 + 32, 96) and together.decode_size == 192
    assert together.visible_box(image.size) == parts[0].visible_box(image.size) and together.view == parts[0].view
    pixels = together.pixels(image)
    for batch in (pixels, torch.from_numpy(pixels)[None]):
        first, last = together.split(batch)
        for part, view in zip(parts, [*inner.split(first), last], strict=True):
            assert np.array_equal(np.asarray(view).reshape(part.shape), part.pixels(image))


def test_the_view_does_not_depend_on_the_size() -> None:
    fits: list[dict[str, Any]] = [{"fit": "squash"}, {"fit": "crop"}, {"fit": "crop", "crop_fraction": 0.875}]
    views = [[Transform(size=size, mean=MEAN, std=STD, **fit).view for fit in fits] for size in (32, 64)]
    assert views[0] == views[1] and len(set(views[0])) == 3
    ignored = Transform(size=32, crop_fraction=0.5, mean=MEAN, std=STD)
    assert ignored.view == views[0][0]


@pytest.mark.parametrize(
    ("setting", "accepted", "refused"),
    [
        ("size", (1, 4096), (0, 4097)),
        ("crop_fraction", (0.01, 1.0), (0, 1.01)),
        ("std", ((0.1, 0.1, 0.1),), ((0, 1, 1), (1, 0, 1), (1, 1, 0))),
    ],
)
def test_settings_have_limits(setting: str, accepted: tuple[Any, ...], refused: tuple[Any, ...]) -> None:
    usual: dict[str, Any] = {"mean": MEAN, "std": STD}
    for value in accepted:
        assert getattr(Transform(**{**usual, setting: value}), setting) == value
    for value in refused:
        with pytest.raises(ValidationError, match=setting):
            Transform(**{**usual, setting: value})


def test_an_image_is_decoded_at_twice_the_size_that_is_needed() -> None:
    for fit, fraction, size in (("squash", 0.5, 200), ("crop", 0.5, 400), ("crop", 1.0, 200)):
        assert Transform(size=100, fit=fit, crop_fraction=fraction, mean=MEAN, std=STD).decode_size == size
