"""XMP and descriptions in PNG files, in the chunks that other programs use."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from captioner.errors import ImageError
from captioner.metadata import DESCRIPTION, embed, embedded_texts
from tests.metadata.samples import compressed, frames, picture, sample
from tests.metadata.test_packet import DIGIKAM

XMP = "XML:com.adobe.xmp"


def chunk_names(path: Path) -> list[bytes]:
    data, position, names = path.read_bytes(), 8, []
    while position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        names.append(name)
        assert data[position + 8 + length :][:4] == struct.pack(">I", zlib.crc32(data[position + 4 :][: length + 4]))
        position += 12 + length
    return names


def test_a_new_packet_comes_before_everything_that_may_count_bytes_to_the_pixels(tmp_path: Path) -> None:
    path = sample("palette.png", tmp_path)
    before = chunk_names(path)
    embed(path, "a dog")
    assert chunk_names(path) == [b"IHDR", b"iTXt", *before[1:]]


def test_a_packet_after_the_pixels_moves_before_them(tmp_path: Path) -> None:
    path = sample("plain.png", tmp_path)
    embed(path, "a dog")
    data = path.read_bytes()
    (length,) = struct.unpack_from(">I", data, 33)
    chunk = data[33 : 45 + length]
    path.write_bytes(data[:33] + data[33 + len(chunk) : -12] + chunk + data[-12:])
    assert chunk_names(path) == [b"IHDR", b"IDAT", b"iTXt", b"IEND"]
    stored = compressed(path)
    embed(path, "a cat")
    assert chunk_names(path) == [b"IHDR", b"iTXt", b"IDAT", b"IEND"] and compressed(path) == stored


def test_a_compressed_packet_is_read_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    info = PngImagePlugin.PngInfo()
    info.add_itxt(XMP, DIGIKAM.format(default="OLYMPUS DIGITAL CAMERA").replace("Une plage", ""), zip=True)
    picture().save(path, pnginfo=info)
    embed(path, "a dog")
    with Image.open(path) as image:
        assert "digiKam:PickLabel" in str(image.info[XMP]) and "a dog" in str(image.info[XMP])
    assert chunk_names(path).count(b"iTXt") == 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["Description", "exif", "iptc", "xmp"])
def test_descriptions_in_text_chunks_are_a_persons(kind: str, packed: bool, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[270] = "Grandma"
    iim = b"\x1c\x02\x78" + struct.pack(">H", 7) + b"Grandma"
    xmp = DIGIKAM.format(default="Grandma").replace("Une plage", "").encode()
    info = PngImagePlugin.PngInfo()
    if kind == "Description":
        info.add_text(kind, "Grandma", zip=packed)
    else:  # as ImageMagick writes them
        data = {"exif": exif.tobytes(), "iptc": iim, "xmp": xmp}[kind]
        digits = data.hex()
        lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
        info.add_text(f"Raw profile type {kind}", f"\n{kind}\n{len(data):8d}\n{lines}\n", zip=packed)
    path = tmp_path / "photo.png"
    picture().save(path, pnginfo=info)
    assert [(each.text, each.author) for each in embedded_texts(path)] == [("Grandma", "person")]
    assert embed(path, "a dog").kept == (DESCRIPTION,)


def test_two_packets_and_a_packet_that_unpacks_to_gigabytes_are_refused(tmp_path: Path) -> None:
    path = sample("plain.png", tmp_path)
    embed(path, "a dog")
    data = path.read_bytes()
    (length,) = struct.unpack_from(">I", data, 33)
    chunk = data[33 : 33 + 12 + length]
    path.write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(ImageError, match="2 XMP packets"):
        embed(path, "a cat")
    bomb = zlib.compress(bytes((1 << 26) + 1), 1)
    body = b"iTXt" + XMP.encode() + b"\0\1\0\0\0" + bomb
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(ImageError, match="larger than"):
        embed(path, "a cat")


def test_what_follows_the_image_is_kept(tmp_path: Path) -> None:
    path = sample("plain.png", tmp_path)
    path.write_bytes(path.read_bytes() + b"what some program has appended")
    shown = frames(path)
    embed(path, "a dog")
    assert path.read_bytes().endswith(b"IEND\xae\x42\x60\x82what some program has appended") and frames(path) == shown
