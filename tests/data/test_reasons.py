"""Every reason of a refusal is true: damaged, not supported, or too large; and libtiff's words are part of it."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.data.images import load_image
from captioner.errors import ImageError
from tests.data.pictures import encode, scene
from tests.data.tiffs import tiff

WIDTH, HEIGHT = 40, 30
DEEP = np.asarray(scene(WIDTH, HEIGHT)).astype(np.uint16) * 257


def reason(source: Any) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source)
    return caught.value.reason


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
    "JPEG of five channels": b"\xff\xd8\xff\xc0\0\x17\x08\0\x08\0\x08\x05" + bytes([1, 17, 0] * 5) + b"\xff\xd9",
    "BMP of 2 bits": encode(scene(), "BMP").replace(struct.pack("<HH", 1, 24), struct.pack("<HH", 1, 2), 1),
    "deep JPEG 2000": encode(scene(), "JPEG2000").replace(b"\7\1\1" * 3, b"\x0f\1\1" * 3),
}


@pytest.mark.parametrize("what", NOT_SUPPORTED)
def test_what_is_not_supported_is_not_called_damaged(what: str) -> None:
    text = reason(NOT_SUPPORTED[what])
    assert "not supported" in text and "convert it" in text and "damaged" not in text


@pytest.mark.parametrize(
    ("magic", "word"),
    [
        (b"v/1\x01", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"PF\n2 2\n-1\n", "PFM"),
        (b"P7\nWIDTH 2\n", "PAM"),
        (b"qoif\0\0\0\2\0\0\0\2", "QOI"),
        (b"DDS |\0\0\0", "DDS"),
        (b"gimp xcf v011", "GIMP"),
        (b"SIMPLE  =                    T", "FITS"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"FUJIFILMCCD-RAW 0201", "raw photos"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw photos"),
    ],
)
def test_formats_that_cannot_be_read_are_named(magic: bytes, word: str) -> None:
    text = reason(magic + bytes(200))
    assert word in text and "damaged" not in text and ";" in text


def test_a_grey_pfm_is_read() -> None:
    content = b"Pf\n2 1\n-1.0\n" + struct.pack("<ff", 0, 1)
    assert [load_image(content).getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


# --- libtiff --------------------------------------------------------------------------------------


def damaged_tiff(compression: str) -> bytes:
    content = bytearray(encode(scene(), "TIFF", compression=compression))
    start = Image.open(io.BytesIO(bytes(content))).tag_v2[273][0]
    content[start : start + 40] = b"\xff" * 40
    return bytes(content)


def test_what_libtiff_prints_becomes_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        content = damaged_tiff(compression)
        path.write_bytes(content)
        for source in (path, content):
            text = reason(source)
            assert text.startswith("damaged or truncated TIFF (") and "decoder error" not in text
    assert capfd.readouterr() == ("", "")


def test_threads_have_messages_of_their_own(capfd: pytest.CaptureFixture[str]) -> None:
    files = {name: damaged_tiff(name) for name in ("tiff_lzw", "tiff_adobe_deflate")}
    alone = {name: reason(content) for name, content in files.items()}
    assert len(set(alone.values())) == 2
    wrong: list[str] = []

    def load(name: str) -> None:
        for _ in range(50):
            if (text := reason(files[name])) != alone[name]:
                wrong.append(text)

    threads = [threading.Thread(target=load, args=[name]) for name in list(files) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert capfd.readouterr() == ("", "")


def test_other_parts_of_a_program_that_use_libtiff_see_its_messages(capfd: pytest.CaptureFixture[str]) -> None:
    reason(damaged_tiff("tiff_lzw"))
    with pytest.raises(OSError):
        Image.open(io.BytesIO(damaged_tiff("tiff_lzw"))).load()
    assert capfd.readouterr().err
