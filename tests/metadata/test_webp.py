"""XMP in WebP files: simple ones become extended, others keep what they have."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from captioner.errors import ImageError
from captioner.metadata import embed
from tests.metadata.samples import SAMPLES, compressed, picture, sample


def header(path: Path) -> tuple[int, int, int]:
    """Return flags, width and height of the chunk VP8X, after checking the sizes of the file and its chunks."""
    data, position = path.read_bytes(), 12
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8 and len(data) % 2 == 0
    while position < len(data):
        position += 8 + (struct.unpack_from("<I", data, position + 4)[0] + 1) // 2 * 2
    assert position == len(data) and data[12:16] == b"VP8X"
    sides = [int.from_bytes(data[start : start + 3], "little") + 1 for start in (24, 27)]
    return data[20], sides[0], sides[1]


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.endswith(".webp")])
@pytest.mark.parametrize("caption", ["a dog", "a dog."], ids=["even", "odd"])
def test_flags_canvas_and_sizes_are_right(name: str, caption: str, tmp_path: Path) -> None:
    path = sample(name, tmp_path)
    is_extended = path.read_bytes()[12:16] == b"VP8X"
    old = header(path) if is_extended else None
    embed(path, caption)
    flags, width, height = header(path)
    assert (width, height) == (36, 24)
    if old is not None:
        assert flags == old[0] | 0x04
    else:
        assert flags == (0x14 if name == "transparent.webp" else 0x04)


def test_the_canvas_of_the_largest_images(tmp_path: Path) -> None:
    for number, (size, options) in enumerate((((16383, 1), {}), ((1, 16383), {"lossless": True}), ((1, 1), {}))):
        path = tmp_path / f"{number}.webp"
        picture().resize(size).save(path, **options)
        stored = compressed(path)
        embed(path, "a dog")
        assert header(path)[1:] == size and compressed(path) == stored


def test_bytes_after_the_image_and_a_missing_padding_are_handled(tmp_path: Path) -> None:
    path = sample("lossy.webp", tmp_path)
    data = path.read_bytes()
    path.write_bytes(data + b"appended")
    embed(path, "a dog")
    assert path.read_bytes().endswith(b"appended")
    # A lossless image has no padding inside, so an odd number of bytes is a matter of what is drawn.
    for seed in range(50):
        picture(seed=seed).save(path, lossless=True)
        data = path.read_bytes()
        (size,) = struct.unpack_from("<I", data, 16)
        if size % 2:
            break
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 9) + data[8:-1])
    embed(path, "a dog")
    assert header(path)[1:] == (36, 24)
    assert path.read_bytes()[30 : 38 + size] == data[12 : 20 + size]


def test_two_packets_are_refused_and_the_name_with_a_zero_is_known(tmp_path: Path) -> None:
    path = sample("lossy.webp", tmp_path)
    embed(path, "a dog")
    data = path.read_bytes()
    start = data.index(b"XMP ")
    path.write_bytes(data.replace(b"XMP ", b"XMP\0"))
    assert embed(path, "a cat").written
    assert path.read_bytes().count(b"XMP ") == 1 and b"XMP\0" not in path.read_bytes()
    path.write_bytes(b"RIFF" + struct.pack("<I", len(data) - 8 + len(data) - start) + data[8:] + data[start:])
    with pytest.raises(ImageError, match="2 XMP packets"):
        embed(path, "a cat")
