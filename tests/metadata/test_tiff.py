"""XMP in TIFF files: nothing that exists moves, and only the first page gets a caption."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from PIL import Image

from captioner.errors import ImageError
from captioner.metadata import embed
from tests.metadata.samples import SAMPLES, exiftool, needs_exiftool, picture, sample

NAMES = [name for name in SAMPLES if name.endswith((".tif", ".tiff"))]


@pytest.mark.parametrize("name", NAMES)
def test_only_the_position_of_the_first_directory_changes_and_the_rest_is_appended(name: str, tmp_path: Path) -> None:
    path = sample(name, tmp_path)
    before = path.read_bytes()
    embed(path, "a dog")
    after = path.read_bytes()
    is_big = before[2:4] in (b"+\0", b"\0+")
    head = slice(8, 16) if is_big else slice(4, 8)
    assert after[: head.start] == before[: head.start] and after[head.stop : len(before)] == before[head.stop :]
    order = "<" if before[:2] == b"II" else ">"
    (directory,) = struct.unpack(order + ("Q" if is_big else "I"), after[head])
    assert directory >= len(before) and directory % 8 == 0
    # Tags are in order, as the specification requires.
    size, count = (
        (20, struct.unpack_from(order + "Q", after, directory)[0])
        if is_big
        else (12, struct.unpack_from(order + "H", after, directory)[0])
    )
    start = directory + (8 if is_big else 2)
    tags = [struct.unpack_from(order + "H", after, start + size * n)[0] for n in range(count)]
    assert tags == sorted(tags) and 700 in tags


@pytest.mark.parametrize("name", NAMES)
def test_a_packet_at_the_end_is_replaced_there_and_a_shorter_one_in_place(name: str, tmp_path: Path) -> None:
    path = sample(name, tmp_path)
    embed(path, "a dog")
    size = path.stat().st_size
    embed(path, "cat")
    assert path.stat().st_size == size  # shorter: in place
    embed(path, "a dog that runs " * 20)
    longest = path.stat().st_size
    for number in range(30):  # the packet at the end grows by some bytes each time
        embed(path, f"a dog that runs {'fast ' * number}" * 20)
    assert path.stat().st_size < longest + 4 * 20 * len("fast ") * 30 + 100


def test_other_pages_have_no_caption(tmp_path: Path) -> None:
    path = sample("pages.tiff", tmp_path)
    embed(path, "a dog")
    with Image.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append(700 in image.tag_v2)  # type: ignore[attr-defined]
    assert found == [True, False, False]


@needs_exiftool
def test_tiles_and_further_directories_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "tiles.tif"
    picture().resize((64, 64)).save(path, compression="tiff_lzw", tiffinfo={322: 32, 323: 32})
    exiftool("-overwrite_original", "-EXIF:ISO=200", "-GPSLatitude=50", "-GPSLatitudeRef=N", path)
    before = exiftool("-ExifIFD:all", "-GPS:all", "-b", path)
    embed(path, "a dog")
    assert before and exiftool("-ExifIFD:all", "-GPS:all", "-b", path) == before


def test_a_circle_of_directories_and_a_full_four_gigabytes_are_refused(tmp_path: Path) -> None:
    path = sample("motorola.tif", tmp_path)
    data = bytearray(path.read_bytes())
    end = 8 + 2 + 12 * 9
    data[end : end + 4] = struct.pack(">I", 8)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="circle"):
        embed(path, "a dog")
    path = sample("plain.tif", tmp_path)
    with open(path, "r+b") as file:
        file.truncate((1 << 32) - 500)  # a file of holes takes no disk
    with pytest.raises(ImageError, match="4 GiB of a TIFF"):
        embed(path, "a dog")


def test_a_digital_negative_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    picture().save(path, tiffinfo={50706: b"\1\4\0\0"})
    with pytest.raises(Exception, match="raw photos"):
        embed(path, "a dog")
