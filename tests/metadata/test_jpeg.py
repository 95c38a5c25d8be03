"""XMP in JPEG files: where the segment stands, and the index of files with several images."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from PIL import Image

from captioner.errors import ImageError
from captioner.metadata import embed, embedded_texts
from captioner.metadata.iptc import iim_descriptions, photoshop_descriptions
from tests.metadata.samples import frames, sample


def markers(path: Path) -> list[bytes]:
    """Return the marker of each segment before the scan, with the first letters of what it holds."""
    data, position, found = path.read_bytes(), 2, []
    while data[position + 1] != 0xDA:
        found.append(data[position + 1 : position + 2] + data[position + 4 : position + 8])
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return found


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("baseline.jpg", [b"\xe0JFIF", b"\xe1http"]),
        ("progressive.jpg", [b"\xe0JFIF", b"\xe1Exif", b"\xe1http"]),
        ("two.mpo", [b"\xe0JFIF", b"\xe1http", b"\xe2MPF\0"]),
        ("cmyk.jpg", [b"\xe1http", b"\xeeAdob"]),
    ],
)
def test_the_segment_stands_where_the_specification_wants_it(name: str, first: list[bytes], tmp_path: Path) -> None:
    path = sample(name, tmp_path)
    before = markers(path)
    embed(path, "a dog")
    after = markers(path)
    assert after[: len(first)] == first
    assert [each for each in after if each != b"\xe1http"] == before
    embed(path, "a cat")
    assert markers(path) == after


def test_fill_bytes_and_bytes_after_the_image_are_kept(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xff\xff" + data[2:] + b"a trailer")
    shown = frames(path)
    embed(path, "a dog")
    assert frames(path) == shown
    assert path.read_bytes().startswith(data[:2] + b"\xff\xff\xff" + data[2:20])
    assert path.read_bytes().endswith(b"\xff\xd9a trailer")


def test_other_images_are_found_wherever_the_packet_stands(tmp_path: Path) -> None:
    path = sample("two.mpo", tmp_path)
    shown = frames(path)
    assert len(shown) == 3
    embed(path, "a dog")
    data = path.read_bytes()
    start = data.index(b"\xff\xe1")
    end = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
    index = data.index(b"\xff\xe2", end)
    after = index + 2 + struct.unpack_from(">H", data, index + 2)[0]
    # Another program has put its packet after the index, from whose start the positions count.
    path.write_bytes(data[:start] + data[end:after] + data[start:end] + data[after:])
    moved = bytearray(path.read_bytes())
    base = moved.index(b"MPF\0") + 4
    order = "<" if moved[base : base + 2] == b"II" else ">"
    with Image.open(path) as image:
        offsets = [entry["DataOffset"] for entry in image.mpinfo[0xB002]]  # type: ignore[attr-defined]
    for offset in offsets[1:]:
        place = moved.index(struct.pack(order + "I", offset), base)
        moved[place : place + 4] = struct.pack(order + "I", offset + end - start)
    path.write_bytes(moved)
    assert frames(path) == shown
    for caption in ("a dog in a wood " * 50, "a cat"):
        embed(path, caption)
        assert frames(path) == shown


def test_two_packets_are_refused(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    embed(path, "a dog")
    data = path.read_bytes()
    start = data.index(b"\xff\xe1")
    end = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
    path.write_bytes(data[:end] + data[start:])
    with pytest.raises(ImageError, match="2 XMP packets"):
        embed(path, "a cat")
    assert [each.text for each in embedded_texts(path)] == ["a dog"] * 4, "both are read"


def test_iptc_is_read_across_segments_and_in_its_long_form(tmp_path: Path) -> None:
    text = "Zoë " * 20_000
    data = text.encode()
    iim = b"\x1c\x01\x5a\x00\x03\x1b%G" + b"\x1c\x02\x05\x00\x01t" + b"\x1c\x02\x78\x80\x04"
    iim += struct.pack(">I", len(data)) + data + b"\x1c\x02\x78\x00\x05again"
    block = b"8BIM\x03\xed\0\0\0\0\0\x03abc\0" + b"8BIM\x04\x04\x04name\0" + struct.pack(">I", len(iim)) + iim
    assert iim_descriptions(iim) == photoshop_descriptions(block) == [text.strip(), "again"]
    path = sample("baseline.jpg", tmp_path)
    jpeg = path.read_bytes()
    segments = b""
    for start in range(0, len(block), 65_000):
        body = b"Photoshop 3.0\0" + block[start : start + 65_000]
        segments += b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
    path.write_bytes(jpeg[:2] + segments + jpeg[2:])
    assert [each.text for each in embedded_texts(path)] == [text.strip(), "again"]
