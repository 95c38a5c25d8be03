"""Any file to a clean RGB picture, or one clear error."""

from __future__ import annotations

import hashlib
import io
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps, features
from pydantic import ValidationError

from captioner.data.images import (
    IMAGE_EXTENSIONS,
    ImageBatch,
    ImageLoader,
    Transform,
    digest,
    find_images,
    load_image,
)
from captioner.errors import CaptionerError, ConfigError, ImageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CORNERS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))  # top left, top right, bottom left, bottom right


def corners(width: int = 64, height: int = 48) -> Image.Image:
    """Four plain quarters of different colours, which JPEG keeps and which show every turn."""
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for index, colour in enumerate(CORNERS):
        x, y = index % 2 * width // 2, index // 2 * height // 2
        draw.rectangle((x, y, x + width // 2, y + height // 2), fill=colour)
    return image


def scene(width: int = 80, height: int = 60, seed: int = 0) -> Image.Image:
    """A smooth random picture, as kind to JPEG as a photo."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def distance(first: Image.Image, second: Image.Image) -> float:
    """The mean difference of two pictures' values, of 255."""
    assert first.size == second.size and first.mode == second.mode == "RGB"
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).mean())


def png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header claims a picture of any size."""
    content = encode(Image.new("L", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def refusal(source: Any, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        load_image(source, **options)
    return caught.value


# --- every kind of file ---------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "DIB": {},
    "TIFF": {"compression": "tiff_lzw"},
    "PPM": {},
    "TGA": {},
    "ICO": {"sizes": [(80, 60)]},
    "JPEG2000": {"irreversible": False},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_picture_that_was_saved(kind: str, tmp_path: Path) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    content = encode(scene(), kind, **KINDS[kind])
    path = tmp_path / "photo"  # no extension: the content decides
    path.write_bytes(content)
    for source in (path, str(path), content):
        image = load_image(source)
        assert type(image) is Image.Image
        assert distance(image, scene()) < (3 if kind in ("JPEG", "AVIF") else 0.01)


def test_a_progressive_and_a_grey_jpeg_load() -> None:
    assert distance(load_image(encode(scene(), "JPEG", quality=95, progressive=True)), scene()) < 3
    grey = scene().convert("L")
    assert distance(load_image(encode(grey, "JPEG", quality=95)), grey.convert("RGB")) < 2


def test_an_adobe_cmyk_jpeg_is_not_inverted() -> None:
    content = encode(scene().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in content[:200]
    assert distance(load_image(content), scene()) < 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_orientations_come_out_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    # What a camera held in that orientation stores: the inverse of the turn that a viewer makes.
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    stored = corners() if inverse is None else corners().transpose(Image.Transpose(inverse))
    image = load_image(encode(stored, kind, exif=exif.tobytes(), **options))
    assert image.size == (64, 48)
    for x, y, colour in zip((8, 56, 8, 56), (8, 8, 40, 40), CORNERS, strict=True):
        assert np.abs(np.asarray(image)[y, x].astype(int) - colour).max() < 12


def test_a_loaded_picture_is_turned_only_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(corners(), "JPEG", exif=exif.tobytes())
    once = load_image(content)
    assert load_image(once) == once == ImageOps.exif_transpose(once)
    assert distance(once, ImageOps.exif_transpose(Image.open(io.BytesIO(content)))) == 0


def test_transparency_is_laid_over_white() -> None:
    alpha = Image.new("RGBA", (4, 1), (200, 0, 0, 255))
    alpha.putpixel((1, 0), (200, 0, 0, 0))
    alpha.putpixel((2, 0), (200, 0, 0, 51))
    expected = [(200, 0, 0), (255, 255, 255), (244, 204, 204), (200, 0, 0)]
    for kind in ("PNG", "WEBP", "TIFF", "ICO"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {"sizes": [(4, 1)]} if kind == "ICO" else {}
        image = load_image(encode(alpha, kind, **options))
        assert [image.getpixel((x, 0)) for x in range(4)] == expected, kind
    assert load_image(encode(Image.new("LA", (2, 2), (0, 0)), "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_palette_colour_becomes_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    for transparency in (1, bytes([255, 0])):
        for kind in ("PNG", "GIF"):
            if kind == "GIF" and not isinstance(transparency, int):
                continue
            image = load_image(encode(palette, kind, transparency=transparency))
            assert [image.getpixel((x, 0)) for x in range(2)] == [(10, 20, 30), (255, 255, 255)]
    assert load_image(encode(palette, "PNG")).getpixel((1, 0)) == (40, 50, 60)
    rgb = Image.new("RGB", (1, 1), (1, 2, 3))
    assert load_image(encode(rgb, "PNG", transparency=(1, 2, 3))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(kind: str) -> None:
    ramp = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    image = load_image(encode(Image.fromarray(ramp), kind))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_big_endian_and_32_bit_grey() -> None:
    big_endian = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 0, 65535))
    assert np.asarray(load_image(big_endian))[0, :, 0].tolist() == [0, 255]
    for values, expected in (
        ([0, 128, 255], [0, 128, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([-1000, 0, 1000], [0, 128, 255]),
        ([7, 7, 70_000], [0, 0, 255]),
    ):
        image = load_image(encode(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF"))
        assert np.asarray(image)[0, :, 1].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-2.0, 0.0, 2.0], [0, 128, 255]),
        ([float("nan"), float("inf"), 1.0], [0, 255, 255]),
        ([5e30, 5e30, 5e30], [0, 0, 0]),
    ],
)
def test_float_tiff(values: list[float], expected: list[int]) -> None:
    content = encode(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(load_image(content))[0, :, 2].tolist() == expected


def test_one_bit_pictures() -> None:
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        assert [load_image(encode(bits, kind)).getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in CORNERS]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = load_image(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert image.getpixel((4, 4)) == CORNERS[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_tiny_and_very_long_pictures(kind: str, size: tuple[int, int]) -> None:
    assert load_image(encode(Image.new("RGB", size, "white"), kind), min_size=448).size == size


def test_unusual_modes_load() -> None:
    for mode in ("YCbCr", "HSV", "RGBX", "RGBa", "PA", "CMYK", "LAB"):
        assert load_image(Image.new(mode, (3, 2))).size == (3, 2)


# --- reduced decoding -----------------------------------------------------------------------------


def test_a_large_jpeg_decodes_reduced_but_never_below_the_size_asked_for() -> None:
    content = encode(scene(1700, 1000), "JPEG", quality=95)
    assert load_image(content).size == (1700, 1000)
    assert load_image(content, min_size=448).size == (850, 500)
    assert load_image(content, min_size=501).size == (1700, 1000)
    assert load_image(content, min_size=10).size == (213, 125)
    assert load_image(encode(scene(1700, 1000), "BMP"), min_size=10).size == (1700, 1000)


def test_reduced_decoding_changes_what_the_encoder_sees_by_little() -> None:
    content = encode(scene(2000, 1500), "JPEG", quality=95)
    transform = Transform(size=224, mean=MEAN, std=STD)
    reduced = load_image(content, min_size=transform.decode_size)
    assert reduced.size == (1000, 750)
    difference = np.abs(transform.pixels(reduced).astype(int) - transform.pixels(load_image(content)))
    assert difference.max() <= 6 and difference.mean() < 1


def test_an_image_that_was_given_is_not_changed() -> None:
    image = Image.open(io.BytesIO(encode(scene(1700, 1000), "JPEG")))
    loaded = load_image(image, min_size=100)
    assert loaded.size == image.size == (1700, 1000)
    loaded.putpixel((0, 0), (1, 2, 3))
    plain = Image.new("RGB", (2, 2))
    load_image(plain).putpixel((0, 0), (9, 9, 9))
    assert plain.getpixel((0, 0)) == (0, 0, 0)


# --- arrays and tensors ---------------------------------------------------------------------------


def test_arrays_and_tensors_give_the_same_picture() -> None:
    picture = scene(9, 7)
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy())
    rgba = np.dstack([array, np.full((7, 9), 255, dtype=np.uint8)])
    sources: list[Any] = [array, array / 255, (array / 255).astype(np.float16), rgba, array[::-1][::-1], picture]
    sources += [tensor, tensor.permute(2, 0, 1), tensor.permute(2, 0, 1) / 255, torch.from_numpy(rgba)]
    sources += [(tensor / 255).requires_grad_(), torch.nn.Parameter(tensor / 255)]
    for source in sources:
        assert load_image(source) == picture
    assert distance(load_image((tensor / 255).bfloat16()), picture) < 1
    for grey in (array[:, :, 0], array[:, :, :1], tensor[:, :, 0], tensor[None, :, :, 0], tensor[:, :, :1]):
        assert np.array_equal(np.asarray(load_image(grey)), array[:, :, :1].repeat(3, axis=2))
    see_through = np.zeros((1, 1, 4))
    assert load_image(see_through).getpixel((0, 0)) == (255, 255, 255)


def test_files_load_while_another_thread_imports_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(scene(), "PNG")
    for name in ("torch", "numpy"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, types.ModuleType(name))  # what an import leaves there when it begins
            assert load_image(content) == scene()


@pytest.mark.parametrize(
    ("source", "name", "reason"),
    [
        (np.zeros((3, 4), dtype=np.int64), "array of shape (3, 4), dtype int64", "uint8"),
        (np.zeros((3, 4), dtype=bool), "array of shape (3, 4), dtype bool", "uint8"),
        (np.zeros((3, 4), dtype=object), "array of shape (3, 4), dtype object", "uint8"),
        (np.zeros((2, 3, 4, 3)), "array of shape (2, 3, 4, 3), dtype float64", "shape"),
        (np.zeros((5, 5, 2)), "array of shape (5, 5, 2), dtype float64", "channels"),
        (np.zeros((3, 5, 5)), "array of shape (3, 5, 5), dtype float64", "channels last"),
        (np.zeros(5), "array of shape (5,), dtype float64", "shape"),
        (np.zeros((0, 5, 3)), "array of shape (0, 5, 3), dtype float64", "no pixels"),
        (np.full((2, 2), 255.0), "array of shape (2, 2), dtype float64", "divide by 255"),
        (np.full((2, 2), -0.1), "array of shape (2, 2), dtype float64", "0..1"),
        (np.full((2, 2), np.nan), "array of shape (2, 2), dtype float64", "nan"),
        (np.array([[0.0, np.inf]]), "array of shape (1, 2), dtype float64", "inf"),
        (torch.zeros(2, 3, 4, 4), "tensor of shape (2, 3, 4, 4), dtype float32", "shape"),
        (torch.zeros(3, 0, 4), "tensor of shape (3, 0, 4), dtype float32", "no pixels"),
        (torch.zeros(4, 4, dtype=torch.int32), "tensor of shape (4, 4), dtype int32", "uint8"),
        (torch.full((3, 4, 4), 2.0), "tensor of shape (3, 4, 4), dtype float32", "divide by 255"),
        (torch.empty(3, 4, 4, device="meta"), "tensor of shape (3, 4, 4), dtype float32", ""),
        (None, "object of type NoneType", "give a file's name"),
        ([1, 2], "object of type list", "give a file's name"),
        (Image.new("RGB", (0, 5)), "image of 0x5, mode RGB", "no pixels"),
    ],
)
def test_objects_that_are_no_picture(source: Any, name: str, reason: str) -> None:
    error = refusal(source)
    assert error.source == name
    assert reason in error.reason and ";" in error.reason


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"ab", "not a picture"),
        (b"hello, this is a text file\n" * 9, "not a picture"),
        (b"\0" * 5000, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(60), "PostScript"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<svg width='9'/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(90), "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(90), "HEIC"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "video"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"PK\x03\x04" + bytes(40), "archive"),
    ],
)
def test_a_file_that_is_no_picture_says_what_it_is(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    error = refusal(path)
    assert error.source == str(path)
    assert reason in error.reason and "; " in error.reason
    assert refusal(content).source == "<bytes>"


def test_an_eps_file_runs_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "drawing.eps"
    scene().save(path, "EPS")
    marker = tmp_path / "ran"
    for name in ("gs", "gswin64c"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {marker}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "PostScript" in refusal(path).reason
    assert not marker.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_an_error(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    content = encode(scene(), kind, **KINDS[kind])
    assert "truncated" in refusal(content[: len(content) // 2]).reason


def test_missing_files_folders_and_odd_names(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "gone.jpg").reason
    assert "folder" in refusal(tmp_path).reason
    assert "web address" in refusal("https://example.org/a.jpg").reason
    assert "cannot be opened" in refusal("a" * 5000).reason
    assert "cannot be opened" in refusal("a\0b.jpg").reason
    file = tmp_path / "file.txt"
    file.write_text("x")
    assert "cannot be opened" in refusal(file / "a.jpg").reason
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    assert "link" in refusal(tmp_path / "broken.jpg").reason
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert "cannot be opened" in refusal(tmp_path / "loop.jpg").reason


def test_special_files_do_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert "pipe" in refusal(pipe).reason
    with pytest.raises(ImageError, match="pipe"):
        digest(pipe)
    assert "device" in refusal("/dev/zero").reason
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's name must be short
        try:
            server.bind("s.jpg")
        finally:
            os.chdir(here)
        assert "socket" in refusal(tmp_path / "s.jpg").reason


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "private.png"
    path.write_bytes(encode(scene(), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert "permission" in refusal(path).reason


def test_a_permission_error_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "private.png"
    path.write_bytes(encode(scene(), "PNG"))

    def deny(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    assert "permission" in refusal(path).reason


# --- the pixel limit ------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [14_000, 20_000, 200_000, 2_000_000_000])
def test_a_huge_picture_is_refused_before_decoding(side: int) -> None:
    tracemalloc.start()
    with warnings.catch_warnings(record=True) as caught:
        error = refusal(png_claiming(side, side))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "178,956,970" in error.reason and "CAPTIONER_MAX_PIXELS" in error.reason
    assert not caught and peak < 10_000_000


def test_the_limit_by_argument_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(scene(80, 60), "PNG")
    assert "above the limit of 4,799" in refusal(content, max_pixels=4799).reason
    assert load_image(content, max_pixels=4800).size == (80, 60)
    monkeypatch.setenv("CAPTIONER_MAX_PIXELS", "4799")
    assert "4,799" in refusal(content).reason
    assert "4,799" in refusal(scene(80, 60)).reason
    assert "4,799" in refusal(np.asarray(scene(80, 60))).reason
    assert load_image(content, max_pixels=4800).size == (80, 60)  # the argument wins
    for value in ("many", "-3", "0"):
        monkeypatch.setenv("CAPTIONER_MAX_PIXELS", value)
        with pytest.raises(ConfigError, match="CAPTIONER_MAX_PIXELS"):
            load_image(content)
    with pytest.raises(ConfigError, match="max_pixels"):
        load_image(content, max_pixels=0)


def test_a_raised_limit_passes_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(scene(80, 60), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # as a picture of 400 million pixels meets it
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(content))
    assert load_image(content).size == (80, 60)


# --- silence --------------------------------------------------------------------------------------


def jpeg_with_damaged_exif() -> bytes:
    content = encode(scene(), "JPEG", quality=95)
    body = b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\xff\x00" + b"\x12\x01\x02\0\xff\xff\xff\x7f\xff\xff\xff\x7f" * 3
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]


def test_damaged_exif_costs_neither_the_picture_nor_a_warning(tmp_path: Path, repository: Path) -> None:
    content = jpeg_with_damaged_exif()
    with pytest.warns(UserWarning):
        Image.open(io.BytesIO(content)).getexif()
    path = tmp_path / "damaged-exif.jpg"
    path.write_bytes(content)
    code = f"from captioner.data.images import load_image; print(load_image({str(path)!r}).size)"
    for flags in ([], ["-W", "error"], ["-W", "always"]):
        done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, cwd=repository)
        assert (done.returncode, done.stdout, done.stderr) == (0, "(80, 60)\n", "")


def test_importing_needs_neither_torch_nor_numpy(repository: Path) -> None:
    code = "import sys, captioner.data.images; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout == "[]\n"


# --- corruption -----------------------------------------------------------------------------------


def _valid_files() -> list[bytes]:
    files = [encode(scene(), kind, **KINDS[kind]) for kind in KINDS if kind != "AVIF" or features.check("avif")]
    exif = Image.Exif()
    exif[0x0112] = 6
    files += [encode(scene(), kind, exif=exif.tobytes()) for kind in ("JPEG", "PNG", "TIFF", "WEBP")]
    files += [encode(scene().quantize(16), "GIF"), encode(scene().convert("RGBA"), "PNG")]
    files += [encode(scene().convert("CMYK"), "JPEG"), encode(scene(), "JPEG", progressive=True)]
    files += [encode(scene(), "TIFF", compression=name) for name in ("raw", "jpeg", "tiff_adobe_deflate")]
    files += [encode(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)), "PNG")]
    files += [encode(scene(), "GIF", save_all=True, append_images=[scene(seed=1)])]
    files += [encode(scene(), "MPO", save_all=True, append_images=[scene(seed=1)])]
    files += [png_claiming(10, 10), jpeg_with_damaged_exif()]
    return files


VALID_FILES = _valid_files()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(VALID_FILES) - 1), st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([None, 16]))
def test_damaged_bytes_give_a_picture_or_one_error(
    capfd: pytest.CaptureFixture[str], file: int, seed: int, head_only: bool, min_size: int | None
) -> None:
    rng = random.Random(seed)
    damaged = bytearray(VALID_FILES[file])
    for _ in range(rng.randrange(12)):  # headers hold what parsers believe, so half of the damage goes there
        place = rng.randrange(min(len(damaged), 120 if head_only else len(damaged)))
        damaged[place] = rng.choice([0, 1, 127, 128, 255])
    if rng.random() < 0.3:
        del damaged[rng.randrange(1, len(damaged)) :]
    if rng.random() < 0.2:
        start = rng.randrange(len(damaged))
        del damaged[start : start + rng.randrange(1, 40)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image = load_image(bytes(damaged), max_pixels=1_000_000, min_size=min_size)
        except ImageError as error:
            assert error.source == "<bytes>" and len(error.reason) > 10 and "\n" not in error.reason
        else:
            assert image.mode == "RGB" and 0 < image.width * image.height <= 1_000_000
            np.asarray(image)
    output, errors = capfd.readouterr()
    assert not caught and not output
    assert not errors or VALID_FILES[file].startswith(b"II*\0")  # libtiff prints from C, out of Python's reach


# --- finding files --------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders and files in the working directory; nothing is decoded, so that they may be empty."""
    for name in (
        "photos/b.jpg",
        "photos/a.PNG",
        "photos/notes.txt",
        "photos/.hidden.jpg",
        "photos/a[1].jpg",
        "photos/sub/c.webp",
        "photos/sub/deep/d.heic",
        "photos/.git/e.jpg",
        "empty/readme.md",
        "odd [x]/f.jpg",
        "odd [x]/g.jpg",
        "what?.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*paths: str | Path, **options: Any) -> list[str]:
    return [path.as_posix() for path in find_images(paths, **options)]


def test_a_folder_gives_its_pictures_sorted(album: Path) -> None:
    top = ["photos/a.PNG", "photos/a[1].jpg", "photos/b.jpg"]
    assert found("photos") == found("photos/") == top
    assert found(album / "photos") == [(album / name).as_posix() for name in top]
    assert found("photos", recursive=True) == [*top, "photos/sub/c.webp", "photos/sub/deep/d.heic"]


def test_patterns_match_as_in_the_shell(album: Path) -> None:
    assert found("photos/*.jpg") == ["photos/a[1].jpg", "photos/b.jpg"]
    assert found("photos/**/*.webp") == ["photos/sub/c.webp"]
    everything = ["photos/a.PNG", "photos/a[1].jpg", "photos/b.jpg", "photos/sub/c.webp", "photos/sub/deep/d.heic"]
    assert found("photos/**") == found("photos/**/*") == everything
    assert found("photos/[bn]*") == ["photos/b.jpg", "photos/notes.txt"]
    assert found("photos/.*.jpg") == ["photos/.hidden.jpg"]
    assert found("ph*") == found("photos")
    assert found(str(album / "photos" / "b.*")) == [(album / "photos/b.jpg").as_posix()]


def test_names_that_exist_are_no_patterns(album: Path) -> None:
    assert found("photos/a[1].jpg", "what?.jpg") == ["photos/a[1].jpg", "what?.jpg"]
    assert found("odd [x]") == found("odd [x]/*.jpg") == ["odd [x]/f.jpg", "odd [x]/g.jpg"]


def test_what_is_not_there_is_given_back(album: Path) -> None:
    names = ["gone.jpg", "gone/*.jpg", "a**b", "photos/notes.txt", "photos/z*", "x" * 5000]
    assert found(*names) == names
    Path("dangling.jpg").symlink_to("gone.jpg")
    assert found("dangling.jpg") == ["dangling.jpg"]


def test_empty_folders_are_told(album: Path) -> None:
    told: list[str] = []
    assert found("empty", "photos/b.jpg", on_empty=told.append) == ["photos/b.jpg"]
    assert told == ["empty/: no pictures in this folder (use --recursive to look in subfolders)"]
    assert found("empty", recursive=True, on_empty=told.append) == []
    assert told[1] == "empty/: no pictures in this folder"
    assert found("empty") == []


def test_links_in_a_circle_end(album: Path) -> None:
    for name in ("photos/sub/up", "photos/sub/deep/up"):
        Path(name).symlink_to(album / "photos")
    Path("photos/self.jpg").symlink_to("self.jpg")
    names = found("photos", recursive=True)
    assert names == [
        *("photos/a.PNG", "photos/a[1].jpg", "photos/b.jpg", "photos/self.jpg", "photos/sub/c.webp"),
        "photos/sub/deep/d.heic",
    ]
    start = time.monotonic()
    assert "photos/sub/deep/d.heic" in found("photos/**/*.heic")
    assert time.monotonic() - start < 5


def test_finding_is_lazy(album: Path) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "photos/b.jpg"

    pictures = find_images(endless())
    assert [next(pictures).name for _ in range(3)] == ["b.jpg"] * 3


def test_extensions_are_lower_case_and_cover_what_is_read() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic"} <= IMAGE_EXTENSIONS
    assert not {".txt", ".eps", ".svg", ".pdf", ".mp4", ""} & IMAGE_EXTENSIONS
    assert all(name == name.lower() and name.startswith(".") for name in IMAGE_EXTENSIONS)


def test_digest_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "big.bin"
    content = bytes(range(256)) * 10_000
    path.write_bytes(content)
    assert digest(path) == digest(str(path)) == hashlib.sha256(content).hexdigest()
    with pytest.raises(ImageError, match="no such file"):
        digest(tmp_path / "gone.jpg")


# --- the transform --------------------------------------------------------------------------------


def test_squash_equals_pillow() -> None:
    image = scene(301, 177)
    for interpolation in ("bicubic", "bilinear", "lanczos"):
        transform = Transform(size=64, interpolation=interpolation, mean=MEAN, std=STD)
        expected = np.asarray(image.resize((64, 64), Image.Resampling[interpolation.upper()])).transpose(2, 0, 1)
        pixels = transform.pixels(image)
        assert pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]
        assert np.array_equal(pixels, expected)
        assert transform.place(image.size) == (0, 0, 1, 1)


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


def test_place_is_the_part_that_pixels_come_from() -> None:
    transform = Transform(size=50, fit="crop", crop_fraction=0.5, mean=MEAN, std=STD)
    x0, y0, x1, y1 = transform.place((400, 200))
    assert (x0, y0, x1, y1) == (0.375, 0.25, 0.625, 0.75)
    image = Image.new("RGB", (400, 200), "black")
    image.paste("white", (round(x0 * 400), round(y0 * 200), round(x1 * 400), round(y1 * 200)))
    assert transform.pixels(image)[:, 2:-2, 2:-2].min() == 255
    wider = image.crop((100, 50, 300, 150))
    assert transform.pixels(Image.new("RGB", (400, 200), "black")).max() == 0 and wider.getpixel((0, 0)) == (0, 0, 0)
    left, top, right, bottom = transform.place((3, 100_000))
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 3_000_000), (3_000_000, 1), (2, 700)])
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_tiny_and_very_long_pictures_need_no_memory(size: tuple[int, int], fit: Any) -> None:
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
def test_a_senseless_transform_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Transform(**({"mean": MEAN, "std": STD} | setting))


def test_a_transform_survives_json_and_cannot_change() -> None:
    transform = Transform(size=224, fit="crop", crop_fraction=0.875, mean=MEAN, std=STD)
    assert Transform.model_validate_json(transform.model_dump_json()) == transform
    with pytest.raises(ValidationError):
        transform.size = 3  # type: ignore[misc]


# --- the loader -----------------------------------------------------------------------------------

SMALL = Transform(size=32, mean=MEAN, std=STD)


def batches(sources: Any, **options: Any) -> list[ImageBatch]:
    return list(ImageLoader(sources, SMALL, **options))


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("captioner-images")]


@pytest.mark.parametrize("workers", [1, 4])
def test_the_loader_equals_one_by_one(workers: int) -> None:
    pictures = [scene(40 + 30 * (seed % 3), 50, seed) for seed in range(11)]
    result = batches([encode(picture, "PNG") for picture in pictures], batch_size=4, workers=workers)
    assert [len(batch) for batch in result] == [4, 4, 3]
    assert [position for batch in result for position in batch.positions] == list(range(11))
    pixels = torch.cat([batch.pixels for batch in result])
    assert pixels.dtype == torch.uint8 and pixels.shape == (11, 3, 32, 32)
    assert np.array_equal(pixels.numpy(), np.stack([SMALL.pixels(picture) for picture in pictures]))


def test_bad_pictures_cost_no_good_ones() -> None:
    good = [encode(scene(seed=seed), "PNG") for seed in range(5)]
    sources: list[Any] = [b"bad", good[0], good[1], "gone.jpg", None, good[2], good[3], good[4], b"", b"worse"]
    result = batches(sources, batch_size=2)
    assert [batch.positions for batch in result] == [[1, 2], [5, 6], [7]]
    assert [[place for place, _ in batch.errors] for batch in result] == [[0], [3, 4], [8, 9]]
    assert [batch.sources for batch in result] == [good[:2], good[2:4], good[4:]]
    error = result[1].errors[0][1]
    assert isinstance(error, CaptionerError) and error.source == "gone.jpg"
    assert error.__traceback__ is None and error.__context__ is None


def test_errors_at_the_end_come_in_a_batch_without_pictures() -> None:
    result = batches([encode(scene(), "PNG")] * 2 + [b"bad"], batch_size=2)
    assert [batch.positions for batch in result] == [[0, 1], []]
    assert result[1].pixels.shape == (0, 3, 32, 32) and [place for place, _ in result[1].errors] == [2]
    assert batches([]) == []


def test_a_slow_picture_does_not_change_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(source: Any, **options: Any) -> Image.Image:
        time.sleep(0.1 if source == 0 else 0)
        return Image.new("RGB", (4, 4), (source, 0, 0))

    monkeypatch.setattr("captioner.data.images.load_image", slow)
    pixels = torch.cat([batch.pixels for batch in batches(range(9), batch_size=2, workers=4)])
    assert pixels[:, 0, 0, 0].tolist() == list(range(9))


def test_an_endless_input_is_read_ahead_no_further_than_promised() -> None:
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


def test_an_endless_input_of_bad_pictures_still_reports() -> None:
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


def test_a_failing_input_ends_the_threads_and_is_seen() -> None:
    def failing() -> Iterator[bytes]:
        yield encode(scene(), "PNG")
        raise RuntimeError("the list broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        batches(failing())
    assert not loader_threads()


def test_a_loader_can_be_walked_again_and_checks_its_numbers() -> None:
    loader = ImageLoader([encode(scene(), "PNG")] * 3, SMALL, batch_size=2, max_pixels=10_000)
    assert [len(batch) for batch in loader] == [len(batch) for batch in loader] == [2, 1]
    assert [len(batch.errors) for batch in batches([scene()] * 2, max_pixels=10)] == [2]
    for setting in ({"batch_size": 0}, {"workers": 0}, {"prefetch": -1}, {"max_pixels": 0}):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            ImageLoader([], SMALL, **setting)


# --- real photos ----------------------------------------------------------------------------------


def test_real_photos_load(shared_data: Path) -> None:
    photos = list(find_images([shared_data / "coco" / "val2014"]))
    assert len(photos) > 100
    greys: list[Any] = []
    loaded = 0
    for batch in ImageLoader(photos, SMALL, batch_size=32):
        assert not batch.errors
        loaded += len(batch)
        colour = (batch.pixels.amax(dim=1) - batch.pixels.amin(dim=1)).amax(dim=(1, 2))
        greys += [source for source, spread in zip(batch.sources, colour.tolist(), strict=True) if spread == 0]
    assert loaded == len(photos) and greys  # COCO has grey photos
    for photo in [*greys[:3], *photos[::40]]:
        with Image.open(photo) as image:
            assert distance(load_image(photo), ImageOps.exif_transpose(image).convert("RGB")) == 0


def test_the_byte_identical_photos_are_found(shared_data: Path) -> None:
    folder = shared_data / "flickr8k"
    names = (folder / "Flickr_8k.trainImages.txt").read_text().split()
    by_size: dict[int, list[Path]] = {}
    for name in names:
        path = folder / "Flicker8k_Dataset" / name
        by_size.setdefault(path.stat().st_size, []).append(path)
    digests = [digest(path) for paths in by_size.values() if len(paths) > 1 for path in paths]
    assert len(digests) - len(set(digests)) == 1
