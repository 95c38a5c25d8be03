"""Loading images into batches: their order, their errors, and the threads behind them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from captioner.data.find import find_images
from captioner.data.images import load_image
from captioner.data.loader import ImageBatch, ImageLoader, load_groups
from captioner.data.transform import Transform
from captioner.errors import CaptionerError, ConfigError
from tests.data.images import MEAN, STD, distance, encode, scene

SMALL = Transform(size=32, mean=MEAN, std=STD)


def batches(sources: Any, **options: Any) -> list[ImageBatch]:
    return list(ImageLoader(sources, SMALL, **options))


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("captioner-images")]


@pytest.mark.parametrize("workers", [1, 4])
def test_the_loader_equals_one_by_one(workers: int) -> None:
    images = [scene(40 + 30 * (seed % 3), 50, seed) for seed in range(11)]
    result = batches([encode(image, "PNG") for image in images], batch_size=4, workers=workers)
    assert [len(batch) for batch in result] == [4, 4, 3]
    assert [position for batch in result for position in batch.positions] == list(range(11))
    pixels = torch.cat([batch.pixels for batch in result])
    assert pixels.dtype == torch.uint8 and pixels.shape == (11, 3, 32, 32)
    assert np.array_equal(pixels.numpy(), np.stack([SMALL.pixels(image) for image in images]))


def test_bad_images_do_not_displace_good_ones() -> None:
    good = [encode(scene(seed=seed), "PNG") for seed in range(5)]
    sources: list[Any] = [b"bad", good[0], good[1], "gone.jpg", None, good[2], good[3], good[4], b"", b"worse"]
    result = batches(sources, batch_size=2)
    assert [batch.positions for batch in result] == [[1, 2], [5, 6], [7]]
    assert [[place for place, _ in batch.errors] for batch in result] == [[0], [3, 4], [8, 9]]
    assert [batch.sources for batch in result] == [good[:2], good[2:4], good[4:]]
    error = result[1].errors[0][1]
    assert isinstance(error, CaptionerError) and error.source == "gone.jpg"
    assert error.__traceback__ is None and error.__context__ is None


def test_errors_at_the_end_come_in_a_batch_without_images() -> None:
    result = batches([encode(scene(), "PNG")] * 2 + [b"bad"], batch_size=2)
    assert [batch.positions for batch in result] == [[0, 1], []]
    assert result[1].pixels.shape == (0, 3, 32, 32) and [place for place, _ in result[1].errors] == [2]
    assert batches([]) == []


def test_a_slow_image_does_not_change_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(source: Any, **options: Any) -> Image.Image:
        time.sleep(0.1 if source == 0 else 0)
        return Image.new("RGB", (4, 4), (source, 0, 0))

    monkeypatch.setattr("captioner.data.loader.load_image", slow)
    pixels = torch.cat([batch.pixels for batch in batches(range(9), batch_size=2, workers=4)])
    assert pixels[:, 0, 0, 0].tolist() == list(range(9))


def test_prefetching_of_an_endless_input_is_limited() -> None:
    taken = 0
    content = encode(scene(), "PNG")

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"bad" if taken % 5 == 0 else content

    given = 0
    iterator = iter(ImageLoader(endless(), SMALL, batch_size=3, prefetch=1))
    for _ in range(20):
        batch = next(iterator)
        assert len(batch) == 3
        time.sleep(0.002)
        given += len(batch) + len(batch.errors)
        assert taken - given <= 3  # one batch ahead
    iterator.close()  # type: ignore[attr-defined]


def test_an_endless_input_of_bad_images_still_reports() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"bad"

    first = next(iter(ImageLoader(endless(), SMALL, batch_size=2, prefetch=2)))
    assert len(first) == 0 and [place for place, _ in first.errors] == [0, 1, 2, 3, 4, 5]


def test_stopping_early_ends_the_threads() -> None:
    before = len(loader_threads())
    iterator = iter(ImageLoader([encode(scene(), "PNG")] * 50, SMALL, batch_size=2, workers=3))
    next(iterator)
    assert len(loader_threads()) > before
    iterator.close()  # type: ignore[attr-defined]
    assert len(loader_threads()) == before


def test_a_failing_input_ends_the_threads_and_raises() -> None:
    def failing() -> Iterator[bytes]:
        yield encode(scene(), "PNG")
        raise RuntimeError("the list broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        batches(failing())
    assert not loader_threads()


def test_a_loader_can_be_iterated_again_and_checks_its_arguments() -> None:
    loader = ImageLoader([encode(scene(), "PNG")] * 3, SMALL, batch_size=2, max_pixels=10_000)
    assert [len(batch) for batch in loader] == [len(batch) for batch in loader] == [2, 1]
    assert [len(batch.errors) for batch in batches([scene()] * 2, max_pixels=10)] == [2]
    for setting in ({"batch_size": 0}, {"workers": 0}, {"prefetch": -1}, {"max_pixels": 0}):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            ImageLoader([], SMALL, **setting)


def test_real_images_load(shared_data: Path) -> None:
    images = list(find_images([shared_data / "coco" / "val2014"]))
    assert len(images) > 100
    greys: list[Any] = []
    loaded = 0
    for batch in ImageLoader(images, SMALL, batch_size=32):
        assert not batch.errors
        loaded += len(batch)
        colour = (batch.pixels.amax(dim=1) - batch.pixels.amin(dim=1)).amax(dim=(1, 2))
        greys += [source for source, spread in zip(batch.sources, colour.tolist(), strict=True) if spread == 0]
    assert loaded == len(images) and greys  # COCO has grey images
    for image in [*greys[:3], *images[::40]]:
        with Image.open(image) as expected:
            assert distance(load_image(image), ImageOps.exif_transpose(expected).convert("RGB")) == 0


def test_every_group_is_a_batch_even_with_errors(tmp_path: Path) -> None:
    good = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(good):
        Image.new("RGB", (20, 10), (80 * number, 0, 0)).save(path)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    before = threading.active_count()
    groups = [[good[0], bad, good[1]], [bad, bad], [good[2]], []]
    batches = list(load_groups(iter(groups), Transform(size=8, mean=MEAN, std=STD), workers=2))
    assert [batch.positions for batch in batches] == [[0, 2], [], [0], []]
    assert [[position for position, _ in batch.errors] for batch in batches] == [[1], [0, 1], [], []]
    assert [tuple(batch.pixels.shape) for batch in batches] == [(2, 3, 8, 8), (0, 3, 8, 8), (1, 3, 8, 8), (0, 3, 8, 8)]
    assert batches[2].sources == [good[2]] and batches[2].pixels[0, 0].float().mean() == pytest.approx(160, abs=2)
    assert threading.active_count() == before


def test_one_group_of_an_endless_input_is_loaded_ahead(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    asked = []

    def endless() -> Iterator[list[Path]]:
        while True:
            asked.append(None)
            yield [tmp_path / "a.png"]

    batches = load_groups(endless(), Transform(size=8, mean=MEAN, std=STD), workers=1)
    for number in range(1, 4):
        next(batches)
        assert len(asked) == number + 1
    batches.close()  # type: ignore[attr-defined]
