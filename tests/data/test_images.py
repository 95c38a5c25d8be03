"""Reading any file as a clean RGB image, or one clear error."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import subprocess
import sys
import tracemalloc
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pi_heif
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps, features

from captioner.data.images import digest, load_image
from captioner.errors import ConfigError, ImageError
from tests.data.images import KINDS, declaring, distance, encode, kinds, png_chunk, refusal, scene

CORNERS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))  # top left, top right, bottom left, bottom right


def corners(width: int = 64, height: int = 48) -> Image.Image:
    """Four quarters of different colours: JPEG keeps them, and they show every rotation."""
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for index, colour in enumerate(CORNERS):
        x, y = index % 2 * width // 2, index // 2 * height // 2
        draw.rectangle((x, y, x + width // 2, y + height // 2), fill=colour)
    return image


def png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header claims an image of any size."""
    content = encode(Image.new("L", (1, 1)), "PNG")
    return content[:8] + png_chunk(b"IHDR", struct.pack(">II", width, height) + content[24:29]) + content[33:]


# --- every kind of file ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds())
def test_every_format_gives_the_image_that_was_saved(kind: str, tmp_path: Path) -> None:
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
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF"])
def test_all_orientations_come_out_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, KINDS[kind])
    # A camera stores the inverse of the rotation that a viewer applies.
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    stored = corners() if inverse is None else corners().transpose(Image.Transpose(inverse))
    image = load_image(encode(stored, kind, exif=exif.tobytes(), **options))
    assert image.size == (64, 48)
    for x, y, colour in zip((8, 56, 8, 56), (8, 8, 40, 40), CORNERS, strict=True):
        assert np.abs(np.asarray(image)[y, x].astype(int) - colour).max() < 12


def test_a_loaded_image_is_rotated_only_once() -> None:
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


def test_one_bit_images() -> None:
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        assert [load_image(encode(bits, kind)).getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in CORNERS]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = load_image(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert image.getpixel((4, 4)) == CORNERS[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_tiny_and_very_long_images(kind: str, size: tuple[int, int]) -> None:
    assert load_image(encode(Image.new("RGB", size, "white"), kind), min_size=448).size == size


def test_unusual_modes_load() -> None:
    for mode in ("YCbCr", "HSV", "RGBX", "RGBa", "PA", "CMYK", "LAB"):
        assert load_image(Image.new(mode, (3, 2))).size == (3, 2)


# --- HEIC -----------------------------------------------------------------------------------------


def heic(image: Image.Image, **options: Any) -> bytes:
    return encode(image, "HEIF", **KINDS["HEIF"], **options)


def test_the_primary_image_of_a_heic_file_is_taken() -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in CORNERS]
    content = heic(images[0], save_all=True, append_images=images[1:], primary_index=2)
    assert load_image(content).getpixel((32, 32)) == CORNERS[2]


def test_a_transparent_heic_is_laid_over_white() -> None:
    alpha = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    assert load_image(heic(alpha)).getpixel((32, 32)) == (255, 255, 255)


def test_ten_bits_and_a_general_brand() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    deep = heic(Image.fromarray(ramp))
    shallow = heic(scene())
    for content in (deep, shallow):
        general = content[:8] + b"mif1" + content[12:]
        assert load_image(general) == load_image(content)
    assert np.abs(np.asarray(load_image(deep))[:, :, 0].astype(int) - (ramp >> 8)).max() <= 2


def test_the_thumbnail_of_a_heic_image_is_ignored() -> None:
    content = heic(scene(640, 480), thumbnails=[256])
    assert load_image(content, min_size=64).size == (640, 480)


@pytest.mark.parametrize("cut", [40, 200, -300, -1])
def test_a_damaged_heic_is_an_error_that_names_the_file(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(heic(scene())[:cut])
    error = refusal(path)
    assert error.source == str(path) and "fresh copy" in error.reason
    assert error.reason.startswith("damaged or truncated HEIC (")


def test_a_heic_that_hides_a_huge_image_behind_a_crop_is_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = heic(scene(80, 60))  # coded as 80 x 64, and cropped
    assert b"clap" in content and load_image(content, max_pixels=4800).size == (80, 60)
    assert "80 x 60 is 4,800 pixels, above the limit of 4,799" in refusal(content, max_pixels=4799).reason
    monkeypatch.setattr(pi_heif.HeifImage, "load", lambda *args: pytest.fail("decoded"))
    assert "20000 x 20000 is 400,000,000 pixels" in refusal(declaring(content, 20_000, 20_000)).reason


@pytest.mark.parametrize("name", [b"mime\0application/rdf+xml", b"application/rdf+xml"])
def test_a_heic_with_a_damaged_item_does_not_end_the_process(name: bytes) -> None:
    content = heic(scene(), xmp=b"<x/>")
    assert name in content and load_image(content).size == (80, 60)
    damaged = content.replace(name, name[:2] + b"\xff" + name[3:])
    reason = "damaged or truncated HEIC (the kind of one of its items is not text); get a fresh copy of it"
    assert refusal(damaged).reason == reason


def test_without_pi_heif_the_error_recommends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(heic(scene()))
    monkeypatch.setitem(sys.modules, "pi_heif.as_plugin", None)
    error = refusal(path)
    assert error.source == str(path) and "pip install -U pi-heif" in error.reason
    assert load_image(encode(scene(), "PNG")) == scene()


def test_pi_heif_is_imported_for_the_first_heic(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(scene(), "JPEG"))
    (tmp_path / "b.heic").write_bytes(heic(scene()))
    code = (
        "import sys, captioner; from captioner.data.images import load_image\n"
        "for name in ('a.jpg', 'b.heic'):\n"
        f"    print(load_image({str(tmp_path)!r} + '/' + name).size, 'pi_heif' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout == "(80, 60) False\n(80, 60) True\n"


# --- reduced decoding -----------------------------------------------------------------------------


def test_a_large_jpeg_decodes_reduced_but_never_below_the_requested_size() -> None:
    content = encode(scene(1700, 1000), "JPEG", quality=95)
    assert load_image(content).size == (1700, 1000)
    assert load_image(content, min_size=448).size == (850, 500)
    assert load_image(content, min_size=501).size == (1700, 1000)
    assert load_image(content, min_size=10).size == (213, 125)
    assert load_image(encode(scene(1700, 1000), "BMP"), min_size=10).size == (1700, 1000)


def test_an_image_that_was_given_is_not_changed() -> None:
    image = Image.open(io.BytesIO(encode(scene(1700, 1000), "JPEG")))
    loaded = load_image(image, min_size=100)
    assert loaded.size == image.size == (1700, 1000)
    loaded.putpixel((0, 0), (1, 2, 3))
    plain = Image.new("RGB", (2, 2))
    load_image(plain).putpixel((0, 0), (9, 9, 9))
    assert plain.getpixel((0, 0)) == (0, 0, 0)


# --- arrays and tensors ---------------------------------------------------------------------------


def test_arrays_and_tensors_give_the_same_image() -> None:
    image = scene(9, 7)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy())
    rgba = np.dstack([array, np.full((7, 9), 255, dtype=np.uint8)])
    sources: list[Any] = [array, array / 255, (array / 255).astype(np.float16), rgba, array[::-1][::-1], image]
    sources += [tensor, tensor.permute(2, 0, 1), tensor.permute(2, 0, 1) / 255, torch.from_numpy(rgba)]
    sources += [(tensor / 255).requires_grad_(), torch.nn.Parameter(tensor / 255)]
    for source in sources:
        assert load_image(source) == image
    assert distance(load_image((tensor / 255).bfloat16()), image) < 1
    for grey in (array[:, :, 0], array[:, :, :1], tensor[:, :, 0], tensor[None, :, :, 0], tensor[:, :, :1]):
        assert np.array_equal(np.asarray(load_image(grey)), array[:, :, :1].repeat(3, axis=2))
    see_through = np.zeros((1, 1, 4))
    assert load_image(see_through).getpixel((0, 0)) == (255, 255, 255)


def test_files_load_while_another_thread_imports_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(scene(), "PNG")
    for name in ("torch", "numpy"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, types.ModuleType(name))  # as at the beginning of an import
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
        (np.full((2, 2), np.nan), "array of shape (2, 2), dtype float64", "not finite"),
        (np.array([[0.0, np.inf]]), "array of shape (1, 2), dtype float64", "not finite"),
        (torch.zeros(2, 3, 4, 4), "tensor of shape (2, 3, 4, 4), dtype float32", "shape"),
        (torch.zeros(3, 0, 4), "tensor of shape (3, 0, 4), dtype float32", "no pixels"),
        (torch.zeros(4, 4, dtype=torch.int32), "tensor of shape (4, 4), dtype int32", "uint8"),
        (torch.full((3, 4, 4), 2.0), "tensor of shape (3, 4, 4), dtype float32", "divide by 255"),
        (torch.empty(3, 4, 4, device="meta"), "tensor of shape (3, 4, 4), dtype float32", "not an ordinary tensor"),
        (torch.zeros(3, 4, 4).to_sparse(), "tensor of shape (3, 4, 4), dtype float32", "give a dense one"),
        (None, "object of type NoneType", "give a file's name"),
        ([1, 2], "object of type list", "give a file's name"),
        (Image.new("RGB", (0, 5)), "image of 0x5, mode RGB", "no pixels"),
    ],
)
def test_other_objects_are_refused(source: Any, name: str, reason: str) -> None:
    error = refusal(source)
    assert error.source == name
    assert reason in error.reason and ";" in error.reason


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds())
def test_a_truncated_file_is_an_error(kind: str) -> None:
    content = encode(scene(), kind, **KINDS[kind])
    assert "truncated" in refusal(content[: len(content) // 2]).reason


# --- the pixel limit ------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [14_000, 20_000, 200_000, 2_000_000_000])
def test_a_huge_image_is_refused_before_decoding(side: int) -> None:
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
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # this image exceeds it, like 400 million pixels the real one
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(content))
    assert load_image(content).size == (80, 60)


# --- silence --------------------------------------------------------------------------------------


def jpeg_with_damaged_exif() -> bytes:
    content = encode(scene(), "JPEG", quality=95)
    body = b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\xff\x00" + b"\x12\x01\x02\0\xff\xff\xff\x7f\xff\xff\xff\x7f" * 3
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]


def test_damaged_exif_neither_loses_the_image_nor_prints_a_warning(tmp_path: Path, repository: Path) -> None:
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
    modules = "captioner.data.find, captioner.data.images, captioner.data.loader, captioner.data.transform"
    code = f"import sys, {modules}; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout == "[]\n"


# --- corruption -----------------------------------------------------------------------------------


def _valid_files() -> list[bytes]:
    files = [encode(scene(), kind, **KINDS[kind]) for kind in KINDS if kind != "AVIF" or features.check("avif")]
    exif = Image.Exif()
    exif[0x0112] = 6
    files += [encode(scene(), kind, exif=exif.tobytes()) for kind in ("JPEG", "PNG", "TIFF", "WEBP")]
    files += [encode(scene().quantize(16), "GIF"), encode(scene().convert("RGBA"), "PNG")]
    files += [encode(scene(), "HEIF", exif=exif.tobytes()), encode(scene().convert("RGBA"), "HEIF")]
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
def test_damaged_bytes_give_an_image_or_one_error(
    capfd: pytest.CaptureFixture[str], file: int, seed: int, head_only: bool, min_size: int | None
) -> None:
    rng = random.Random(seed)
    damaged = bytearray(VALID_FILES[file])
    for _ in range(rng.randrange(12)):  # parsers trust headers, so half of the damage goes there
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
    assert not caught and not output and not errors


# --- digests --------------------------------------------------------------------------------------


def test_digest_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "big.bin"
    content = bytes(range(256)) * 10_000
    path.write_bytes(content)
    assert digest(path) == digest(str(path)) == hashlib.sha256(content).hexdigest()
    with pytest.raises(ImageError, match="no such file"):
        digest(tmp_path / "gone.jpg")


def test_byte_identical_images_are_found(shared_data: Path) -> None:
    folder = shared_data / "flickr8k"
    names = (folder / "Flickr_8k.trainImages.txt").read_text().split()
    by_size: dict[int, list[Path]] = {}
    for name in names:
        path = folder / "Flicker8k_Dataset" / name
        by_size.setdefault(path.stat().st_size, []).append(path)
    digests = [digest(path) for paths in by_size.values() if len(paths) > 1 for path in paths]
    assert len(digests) - len(set(digests)) == 1
