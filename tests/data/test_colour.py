"""ICC profiles: colours as sRGB."""

from __future__ import annotations

import io
import itertools
import logging
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from captioner.data import colour
from captioner.data.images import load_image
from tests.data.images import KINDS, encode, kinds, scene
from tests.data.tiffs import tiff

Matrix = tuple[tuple[float, float, float], ...]  # XYZ, relative to D50, of red, green and blue
SRGB: Matrix = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139))
ADOBE_RGB: Matrix = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
DISPLAY_P3: Matrix = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
PROPHOTO: Matrix = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
SPACES = {"Adobe RGB": (ADOBE_RGB, 2.2), "ProPhoto": (PROPHOTO, 1.8), "P3 primaries": (DISPLAY_P3, 2.2)}


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space: bytes, gamma: float, matrix: Matrix | None = None) -> bytes:
    """An ICC profile of version 2: a matrix and a gamma, or a gamma alone for grey."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79), b"wtpt": white}
    if matrix is None:
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip((b"r", b"g", b"b"), matrix, strict=True):
            tags[letter + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*column)
            tags[letter + b"TRC"] = curve
    place = 128 + 4 + 12 * len(tags)
    table = struct.pack(">I", len(tags))
    body = b""
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += padded
    head = bytes(8) + struct.pack(">I", 0x02100000) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    head += fixed(0.9642, 1, 0.8249)
    return struct.pack(">I", place + len(body)) + head[4:].ljust(124, b"\0") + table + body


def expected(values: tuple[int, int, int], matrix: Matrix, gamma: float) -> np.ndarray:
    """Return the colour in sRGB by the matrices and curves."""
    linear = (np.array(values) / 255) ** gamma
    light = np.linalg.inv(np.array(SRGB).T) @ np.array(matrix).T @ linear
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


COLOURS = [(200, 100, 50), (60, 120, 90), (128, 128, 128), (90, 80, 140), (255, 255, 255), (0, 0, 0)]


def patches(mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (len(COLOURS) * 16, 16))
    for index, values in enumerate(COLOURS):
        image.paste(values, (16 * index, 0, 16 * index + 16, 16))
    return image.convert(mode)


def first_values(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[8, 8::16].astype(int)


@pytest.mark.parametrize("space", SPACES)
def test_colours_follow_from_the_matrices_of_their_space(space: str) -> None:
    matrix, gamma = SPACES[space]
    content = encode(patches(), "PNG", icc_profile=profile(b"RGB ", gamma, matrix))
    for values, found in zip(COLOURS, first_values(load_image(content)), strict=True):
        assert np.abs(found - expected(values, matrix, gamma)).max() <= 1.5, values


@pytest.mark.parametrize(("space", "values"), [("Adobe RGB", (72, 127, 30)), ("ProPhoto", (59, 101, 33))])
def test_the_green_of_the_web_platform_tests_is_green(space: str, values: tuple[int, int, int]) -> None:
    # css/css-color: a98-rgb 0.281363 0.498012 0.116746 and prophoto-rgb 0.230479 0.395789 0.129968 are #008000.
    matrix, gamma = SPACES[space]
    content = encode(Image.new("RGB", (4, 4), values), "PNG", icc_profile=profile(b"RGB ", gamma, matrix))
    assert np.abs(np.array(load_image(content).getpixel((0, 0))) - (0, 128, 0)).max() <= 8
    assert load_image(encode(Image.new("RGB", (4, 4), values), "PNG")).getpixel((0, 0)) == values


@pytest.mark.parametrize("kind", kinds("PNG", "TIFF", "JPEG", "WEBP", "JPEG2000", "AVIF", "HEIF"))
def test_every_format_that_holds_a_profile_is_converted(kind: str) -> None:
    icc = profile(b"RGB ", 1.8, PROPHOTO)
    if kind == "JPEG2000":  # Pillow writes none
        content = encode(patches(), kind, **KINDS[kind])
        place = content.index(b"colr") - 4
        old = int.from_bytes(content[place : place + 4], "big")
        box = struct.pack(">I", len(icc) + 11) + b"colr\2\0\0" + icc
        header = content.index(b"jp2h") - 4
        size = int.from_bytes(content[header : header + 4], "big") + len(box) - old
        content = (
            content[:header] + struct.pack(">I", size) + content[header + 4 : place] + box + content[place + old :]
        )
    else:
        content = encode(patches(), kind, icc_profile=icc, **KINDS[kind])
    converted = first_values(load_image(content))
    for values, found in zip(COLOURS, converted, strict=True):
        assert np.abs(found - expected(values, PROPHOTO, 1.8)).max() < 7, values


def test_a_reduced_jpeg_is_converted_too() -> None:
    big = patches().resize((960, 160), Image.Resampling.NEAREST)
    content = encode(big, "JPEG", quality=95, icc_profile=profile(b"RGB ", 2.2, ADOBE_RGB))
    image = load_image(content, min_size=40)
    assert image.size == (240, 40)
    assert np.abs(np.asarray(image)[20, 20] - expected(COLOURS[0], ADOBE_RGB, 2.2)).max() < 6


def test_grey_has_its_own_profile() -> None:
    icc = profile(b"GRAY", 1.0)
    for grey in (Image.new("L", (4, 4), 55), Image.fromarray(np.full((4, 4), 55 * 257, np.uint16))):
        assert load_image(encode(grey, "PNG", icc_profile=icc)).getpixel((0, 0)) == (128, 128, 128)
    clear = Image.new("LA", (2, 1), (55, 255))
    clear.putpixel((1, 0), (55, 0))
    image = load_image(encode(clear, "PNG", icc_profile=icc))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(128, 128, 128), (255, 255, 255)]
    keyed = load_image(encode(Image.new("L", (1, 1), 55), "PNG", icc_profile=icc, transparency=55))
    assert keyed.getpixel((0, 0)) == (255, 255, 255)


def test_transparency_and_palettes_are_kept() -> None:
    icc = profile(b"RGB ", 1.8, PROPHOTO)
    clear = patches("RGBA")
    clear.putpixel((8, 8), (200, 100, 50, 0))
    plain = first_values(load_image(encode(patches(), "PNG", icc_profile=icc)))
    image = first_values(load_image(encode(clear, "PNG", icc_profile=icc)))
    assert tuple(image[0]) == (255, 255, 255) and np.array_equal(image[1:], plain[1:])
    palette = patches().quantize(16)
    assert np.array_equal(first_values(load_image(encode(palette, "PNG", icc_profile=icc))), plain)


def cmyk_profile() -> bytes:
    """A printer's profile: paper is white, black ink black, and any other ink alone grey of lightness 50."""
    grid = [0 if black or cyan + magenta + yellow > 1 else 128 if cyan + magenta + yellow else 255
            for cyan, magenta, yellow, black in itertools.product((0, 1), repeat=4)]  # fmt: skip
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + straight * 4
    table += b"".join(bytes([lightness, 128, 128]) for lightness in grid) + straight * 3
    head = bytes(4) + struct.pack(">I", 0x02100000) + b"prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28)
    head = (head + fixed(0.9642, 1, 0.8249)).ljust(124, b"\0")
    tags = struct.pack(">I4sII", 1, b"A2B0", 128 + 16, len(table))
    return struct.pack(">I", 128 + 16 + len(table)) + head + tags + table


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_with_a_profile_is_converted(kind: str) -> None:
    icc = cmyk_profile()
    # A lightness of 50 is 119 in sRGB; without a profile, a full ink takes all of its colour.
    for ink, expected_grey, without in (
        ((0, 0, 0, 0), 255, (255, 255, 255)),
        ((255, 0, 0, 0), 119, (0, 255, 255)),
        ((0, 0, 0, 255), 0, (0, 0, 0)),
    ):
        image = Image.new("CMYK", (16, 16), ink)
        found = np.array(load_image(encode(image, kind, icc_profile=icc)).getpixel((8, 8)))
        assert np.abs(found - expected_grey).max() <= 2
        assert np.abs(np.array(load_image(encode(image, kind)).getpixel((8, 8))) - without).max() <= 2


def test_an_srgb_profile_leaves_every_value_as_it_is() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("JPEG", "PNG"):
        assert load_image(encode(scene(), kind, icc_profile=icc)) == load_image(encode(scene(), kind))
    image = scene()
    assert colour.to_srgb(image, icc, "a") is image


@pytest.fixture
def notes(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="captioner"):
        yield caplog


@pytest.mark.parametrize(
    ("image", "icc", "note"),
    [
        (scene(), b"no profile at all", "cannot open profile"),
        (scene(), profile(b"RGB ", 1.8, PROPHOTO)[:300], ""),
        (scene().convert("L"), profile(b"RGB ", 1.8, PROPHOTO), "it is for RGB, the image is grey"),
        (scene(), profile(b"GRAY", 1.0), "it is for GRAY, the image is colour"),
        (scene(), bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()), "it is for Lab"),
    ],
)
def test_a_profile_that_does_not_fit_is_ignored_with_a_note(
    image: Image.Image, icc: bytes, note: str, notes: pytest.LogCaptureFixture
) -> None:
    assert load_image(encode(image, "PNG", icc_profile=icc)) == image.convert("RGB")
    assert len(notes.messages) == 1
    assert notes.messages[0].startswith("<bytes>: its ICC profile is ignored (") and note in notes.messages[0]


def test_a_profile_of_two_megabytes_in_a_png_is_used() -> None:
    icc = profile(b"RGB ", 1.8, PROPHOTO)
    content = encode(patches(), "PNG", icc_profile=icc + bytes(2_000_000))
    assert load_image(content) == load_image(encode(patches(), "PNG", icc_profile=icc))


def test_images_in_memory_are_converted_and_not_changed() -> None:
    image = patches()
    image.info["icc_profile"] = profile(b"RGB ", 1.8, PROPHOTO)
    loaded = load_image(image)
    assert first_values(image)[0].tolist() == [200, 100, 50]
    assert first_values(loaded)[0].tolist() != [200, 100, 50]
    assert load_image(loaded) == loaded  # without metadata, converted once


def test_a_transform_is_shared_by_threads() -> None:
    content = encode(patches(), "PNG", icc_profile=profile(b"RGB ", 1.7, PROPHOTO))
    once = load_image(content)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: load_image(content) == once, range(80)))


def test_a_tiff_of_planes_is_converted() -> None:
    icc = profile(b"RGB ", 1.8, PROPHOTO)
    planes = [plane.tobytes() for plane in patches().split()]
    width, height = patches().size
    tags = {256: width, 257: height, 258: [8] * 3, 259: 1, 262: 2, 277: 3, 278: height, 284: 2}
    data = {273: planes}
    plain = load_image(tiff({**tags, 279: [width * height] * 3}, data))
    assert plain == patches()
    written = io.BytesIO()
    patches().save(written, "TIFF", icc_profile=icc)
    assert np.array_equal(first_values(load_image(written.getvalue())), first_values(colour.to_srgb(plain, icc, "a")))
