"""Copies and bursts: only one image is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from captioner.collection.items import Item
from captioner.collection.once import Deduplicator, difference_hash

SCENE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def photo(
    path: Path, *, noise: int = 0, other: bool = False, time: str = "", model: str = "X", fraction: str = ""
) -> Item:
    """Write a photo of a scene, or of another one, with a little noise."""
    scene = SCENE[::-1] if other else SCENE
    pixels = np.array(Image.fromarray(scene).resize((240, 160), Image.Resampling.BICUBIC)).astype(int)
    pixels += np.random.default_rng(noise).integers(-noise, noise + 1, pixels.shape)
    exif = Image.Exif()
    exif[0x0110] = model
    if time:
        exif.get_ifd(0x8769).update({0x9003: f"2026:11:28 {time}"} | ({0x9291: fraction} if fraction else {}))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90, exif=exif)
    return Item.of_file(str(path))


def kept(once: Deduplicator, items: Sequence[Item]) -> list[str]:
    return [Path(item.name).stem for item in once.first(items)]


def test_copies_are_left_out(tmp_path: Path) -> None:
    one = photo(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    items = [
        one,
        Item("zip:b.jpg", data),
        photo(tmp_path / "c.jpg", noise=3),
        Item("d", None, "bad"),
        Item("e", b"text"),
    ]
    items += [Item(str(tmp_path / "gone.jpg"), str(tmp_path / "gone.jpg")), one]
    once = Deduplicator()
    assert kept(once, items) == ["a", "c", "d", "e", "gone", "a"]
    assert (once.copies, once.bursts) == (1, 0)


def test_only_the_first_photo_of_a_burst_is_kept(tmp_path: Path) -> None:
    items = [
        photo(tmp_path / "a.jpg", noise=1, time="10:00:00"),
        photo(tmp_path / "b.jpg", noise=4, time="10:00:01"),
        photo(tmp_path / "c.jpg", noise=6, time="10:00:03"),
        photo(tmp_path / "d.jpg", noise=2, time="10:00:04", other=True),
        photo(tmp_path / "e.jpg", noise=3, time="10:00:04", other=True, fraction="5"),
        photo(tmp_path / "f.jpg", noise=5, time="10:00:09", other=True),
        photo(tmp_path / "g.jpg", noise=7, time="10:00:10", other=True, model="Y"),
        photo(tmp_path / "h.jpg", noise=8),
        photo(tmp_path / "i.jpg", noise=9),
    ]
    once = Deduplicator()
    assert kept(once, items) == ["a", "d", "f", "g", "h", "i"]
    assert (once.copies, once.bursts) == (0, 3)


def test_bursts_of_a_phone_are_heic(tmp_path: Path) -> None:
    items = []
    for number in range(3):
        photo(tmp_path / "a.jpg", noise=number, time=f"10:00:0{number}")
        path = tmp_path / f"{number}.heic"
        with Image.open(tmp_path / "a.jpg") as image:
            pillow_heif.from_pillow(image).save(path, format="HEIF")
        items.append(Item.of_file(str(path)))
    once = Deduplicator()
    assert kept(once, items) == ["0"] and once.bursts == 2


def test_pipes_are_not_opened_and_large_photos_not_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    items = [Item.of_file(str(tmp_path / "pipe.jpg")), photo(tmp_path / "a.jpg", time="10:00:00")]
    assert kept(Deduplicator(), items) == ["pipe", "a"] and not len(recwarn)


def test_the_hash_compares_neighbouring_pixels() -> None:
    image = Image.linear_gradient("L").rotate(90)  # darker from left to right, or the other way
    bits = {difference_hash(image), difference_hash(image.rotate(180))}
    assert bits == {0, 2**64 - 1}


def test_damaged_exif_is_none(tmp_path: Path) -> None:
    items = [photo(tmp_path / "a.jpg", time="no time"), photo(tmp_path / "b.jpg", noise=1, time="no time")]
    assert kept(Deduplicator(), items) == ["a", "b"]
