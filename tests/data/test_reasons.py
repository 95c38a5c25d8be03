"""The reasons of image errors: damaged, not supported, or too large, with libtiff's messages."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.data.images import check_file, load_image
from captioner.errors import ImageError
from tests.data.images import encode, png_chunk, refusal, scene
from tests.data.test_colour import PROPHOTO, profile
from tests.data.tiffs import tiff

WIDTH, HEIGHT = 40, 30
DEEP = np.asarray(scene(WIDTH, HEIGHT)).astype(np.uint16) * 257


def reason(source: Any) -> str:
    return refusal(source).reason


def rgb_tiff(
    values: np.ndarray, order: str = "<", sample_format: int = 1, planes: bool = False, **options: Any
) -> bytes:
    """A TIFF of colours of any type."""
    pack: Callable[[bytes], bytes] = options.get("pack", bytes)
    channels = values.shape[2]
    values = values.astype(values.dtype.newbyteorder(order))
    parts = [values[:, :, channel].tobytes() for channel in range(channels)] if planes else [values.tobytes()]
    packed = [pack(part) for part in parts]
    tags = {256: WIDTH, 257: HEIGHT, 258: [8 * values.itemsize] * channels, 259: options.get("compression", 1), 262: 2}
    tags |= {277: channels, 278: HEIGHT, 279: [len(part) for part in packed], 284: 2 if planes else 1}
    tags |= {339: [sample_format] * channels} if sample_format != 1 else {}
    tags |= {338: options["extra"]} if "extra" in options else {}
    return tiff(tags, {273: packed}, order)


# --- TIFF -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize(("compression", "pack"), [(1, bytes), (8, zlib.compress)])
def test_sixteen_bit_colours_are_read_in_planes_too(
    order: str, planes: bool, compression: int, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    content = rgb_tiff(DEEP, order, planes=planes, compression=compression, pack=pack)
    assert load_image(content) == scene(WIDTH, HEIGHT)
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    assert load_image(path) == scene(WIDTH, HEIGHT)


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_sixteen_bit_planes_with_transparency(extra: int) -> None:
    clear = np.dstack([DEEP, np.full((HEIGHT, WIDTH), 65535, np.uint16)])
    clear[0, 0, 3] = 0
    image = load_image(rgb_tiff(clear, planes=True, extra=extra))
    if extra:
        assert image.getpixel((0, 0)) == (255, 255, 255)
        image.putpixel((0, 0), scene(WIDTH, HEIGHT).getpixel((0, 0)))
    assert image == scene(WIDTH, HEIGHT)


def test_eight_bit_planes_are_read_as_before() -> None:
    assert load_image(rgb_tiff((DEEP // 257).astype(np.uint8), planes=True)) == scene(WIDTH, HEIGHT)


@pytest.mark.parametrize(("order", "kind"), [("<", np.uint8), (">", np.uint8), ("<", np.uint16)])
def test_white_may_be_zero(order: str, kind: type) -> None:
    values = (np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) % 256).astype(np.uint8)
    stored = np.iinfo(kind).max - values.astype(kind) * (257 if kind is np.uint16 else 1)
    tags = {256: WIDTH, 257: HEIGHT, 258: 8 * stored.itemsize, 259: 1, 262: 0, 278: HEIGHT, 279: stored.nbytes}
    content = tiff(tags, {273: stored.astype(stored.dtype.newbyteorder(order)).tobytes()}, order)
    assert np.array_equal(np.asarray(load_image(content))[:, :, 0], values)


NOT_SUPPORTED: dict[str, bytes] = {
    "float colours": rgb_tiff((DEEP / 65535).astype(np.float32), sample_format=3),
    "float planes": rgb_tiff((DEEP / 65535).astype(np.float32), sample_format=3, planes=True),
    "32-bit colours": rgb_tiff(DEEP.astype(np.uint32)),
    "64-bit floats": tiff({256: 1, 257: 1, 258: 64, 259: 1, 262: 1, 278: 1, 279: 8, 339: 3}, {273: bytes(8)}),
    "LERC": rgb_tiff(DEEP, compression=34887),
    "JPEG 2000 in TIFF": rgb_tiff(DEEP, compression=34712),
    "five planes": rgb_tiff(np.zeros((HEIGHT, WIDTH, 5), np.uint8), planes=True),
    "many channels": rgb_tiff(np.zeros((HEIGHT, WIDTH, 30), np.uint8)),
    "12-bit JPEG": encode(scene(), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "JPEG without a height": encode(scene(), "JPEG").replace(b"\xff\xc0\0\x11\x08\0\x3c", b"\xff\xc0\0\x11\x08\0\0"),
    "JPEG of five channels": b"\xff\xd8\xff\xc0\0\x17\x08\0\x08\0\x08\x05" + bytes([1, 17, 0] * 5) + b"\xff\xd9",
    "BMP of 2 bits": encode(scene(), "BMP").replace(struct.pack("<HH", 1, 24), struct.pack("<HH", 1, 2), 1),
    "deep JPEG 2000": encode(scene(), "JPEG2000").replace(b"\7\1\1" * 3, b"\x0f\1\1" * 3),
}


@pytest.mark.parametrize("what", NOT_SUPPORTED)
def test_unsupported_images_are_not_called_damaged(what: str) -> None:
    text = reason(NOT_SUPPORTED[what])
    assert "not supported" in text and "convert it" in text and "damaged" not in text


def run_lengths(values: np.ndarray) -> bytes:
    """A grey BMP compressed by run lengths, each a single pixel."""
    height, width = values.shape
    rows = [b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in values[::-1]]
    pixels = b"".join(rows) + b"\0\1"
    palette = b"".join(bytes((value, value, value, 0)) for value in range(256))
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(pixels), 0, 0, 1078) + head + palette + pixels


def test_a_bmp_of_many_runs_is_read() -> None:
    values = np.random.default_rng(0).integers(0, 256, (300, 400), np.uint8)
    assert np.array_equal(np.asarray(load_image(run_lengths(values)))[:, :, 0], values)


def test_runs_without_pixels_are_refused() -> None:
    content = run_lengths(np.zeros((1, 8), np.uint8))
    assert "damaged" in reason(content[:1078] + b"\0\2\0\0" * 200_000)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"name\0\5x"),
        png_chunk(b"iCCP", b""),
        png_chunk(b"iCCP", b"name\0\0x", 0),
        png_chunk(b"tEXt", b"key\0value", 0),
        png_chunk(b"gAMA", b""),
        png_chunk(b"pHYs", b"x"),
        png_chunk(b"tIME", bytes(7), 0),
    ],
)
def test_a_png_damaged_outside_its_pixels_is_read(chunk: bytes) -> None:
    content = encode(scene(), "PNG")
    damaged = content[:33] + chunk + content[33:]
    assert load_image(damaged).tobytes() == scene().tobytes()
    assert check_file(damaged) == scene().size


def test_a_damaged_profile_of_a_png_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    content = encode(scene(), "PNG", icc_profile=profile(b"RGB ", 1.8, PROPHOTO))
    assert load_image(content).tobytes() != scene().tobytes()
    place = content.index(b"iCCP") + 60
    damaged = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
    assert load_image(damaged).tobytes() == scene().tobytes()


def test_a_png_with_a_wrong_length_is_damaged() -> None:
    content = encode(scene().quantize(16), "PNG", transparency=3)
    text = png_chunk(b"tEXt", b"key\0value")
    palette = len(text) + content.index(b"tRNS") - 4 - 33 - 12  # the length that takes the palette along
    for length in (64, palette):
        assert "damaged" in reason(content[:33] + struct.pack(">I", length) + text[4:] + content[33:])


def test_a_png_damaged_in_its_pixels_is_not() -> None:
    content = encode(scene(), "PNG")
    place = content.index(b"IDAT") + 40
    assert "damaged" in reason(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])


def test_a_closed_image_is_not_called_damaged() -> None:
    image = scene()
    image.close()
    with pytest.raises(ImageError, match="has been closed"):
        load_image(image)


def test_premultiplied_grey_is_read() -> None:
    grey = scene().convert("L")
    assert load_image(grey.convert("LA").convert("La")).tobytes() == grey.convert("RGB").tobytes()


def test_a_grey_pfm_is_read() -> None:
    content = b"Pf\n2 1\n-1.0\n" + struct.pack("<ff", 0, 1)
    assert [load_image(content).getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


# --- libtiff --------------------------------------------------------------------------------------


def damaged_tiff(compression: str) -> bytes:
    content = bytearray(encode(scene(), "TIFF", compression=compression))
    start = Image.open(io.BytesIO(bytes(content))).tag_v2[273][0]
    content[start : start + 40] = b"\xff" * 40
    return bytes(content)


def test_the_message_of_libtiff_becomes_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        content = damaged_tiff(compression)
        path.write_bytes(content)
        for source in (path, content):
            text = reason(source)
            assert text.startswith("damaged or truncated TIFF (") and "decoder error" not in text
    assert capfd.readouterr() == ("", "")


def test_messages_of_threads_are_separate(capfd: pytest.CaptureFixture[str]) -> None:
    files = {name: damaged_tiff(name) for name in ("tiff_lzw", "tiff_adobe_deflate")}
    alone = {name: reason(content) for name, content in files.items()}
    assert len(set(alone.values())) == 2

    def load(name: str) -> bool:
        return all(reason(files[name]) == alone[name] for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(load, list(files) * 2))
    assert capfd.readouterr() == ("", "")


def test_other_parts_of_a_program_that_use_libtiff_see_its_messages(capfd: pytest.CaptureFixture[str]) -> None:
    reason(damaged_tiff("tiff_lzw"))
    with pytest.raises(OSError):
        Image.open(io.BytesIO(damaged_tiff("tiff_lzw"))).load()
    assert capfd.readouterr().err
