"""Small files whose decoding costs far more than their headers declare are refused."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.data import streams
from captioner.data.heif_boxes import coded_pixels
from captioner.data.images import check_file, load_image
from captioner.errors import ImageError
from tests.data import images
from tests.data.images import NO_AVIF, declaring, distance, encode, png_chunk, scene
from tests.data.tiffs import tiff


def refusal(source: Any, **options: Any) -> str:
    """The reason; refusing takes little time and memory."""
    tracemalloc.start()
    start = time.perf_counter()
    reason = images.refusal(source, **options).reason
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 5 and peak < 30_000_000
    return reason


@pytest.fixture
def few_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow fewer reads, to test with smaller files."""
    monkeypatch.setattr(streams, "_READS", 5000)


# --- JPEG -----------------------------------------------------------------------------------------


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(width: int, height: int, scans: int, *, progressive: bool = True) -> bytes:
    """A grey progressive JPEG, or a colour one with a scan a channel, whose scans beyond the first say "nothing"."""
    channels = 1 if progressive else 3
    parts = b"".join(bytes([channel + 1, 0x11, 0]) for channel in range(channels))
    content = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    content += segment(0xC2 if progressive else 0xC0, struct.pack(">BHHB", 8, height, width, channels) + parts)
    for table, symbol in ((0x00, 0), (0x10, 0)):
        content += segment(0xC4, bytes([table, 1]) + bytes(15) + bytes([symbol]))
    for scan in range(scans):
        first, last = ((0, 0) if scan == 0 else (1, 63)) if progressive else (0, 63)
        content += segment(0xDA, bytes([1, scan % channels + 1, 0, first, last, 0])) + bytes(8)
    return content + b"\xff\xd9"


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_with_a_thousand_scans_is_refused(progressive: bool) -> None:
    content = jpeg(7000, 7000, 1000, progressive=progressive)
    assert len(content) < 50_000
    assert "it has more than 73 scans" in refusal(content)  # 20 at the limit, so 73 at 49 million pixels
    assert "it has more than 100 scans" in refusal(jpeg(64, 64, 1000, progressive=progressive))


def test_the_scans_that_encoders_write_are_read_at_any_size() -> None:
    assert load_image(jpeg(64, 64, 100)).size == (64, 64)
    content = encode(scene(), "JPEG", progressive=True, quality=95)
    assert content.count(b"\xff\xda") >= 10
    assert load_image(content, max_pixels=80 * 60).size == (80, 60)


def test_only_the_scans_of_the_image_itself_are_counted() -> None:
    content = encode(scene(), "JPEG", progressive=True)
    assert load_image(content + b"\xff\xda" * 1000).size == (80, 60)  # like the film appended to a phone's image
    with_thumbnail = content[:2] + segment(0xE5, b"\xff\xda" * 1000) + content[2:]
    assert load_image(with_thumbnail).size == (80, 60)
    between = content.rindex(b"\xff\xc4")  # a comment between two scans
    assert load_image(content[:between] + segment(0xFE, b"\xff\xda" * 1000) + content[between:]).size == (80, 60)


@pytest.mark.parametrize("part", [b"\xff", b"\xff\xfe\0\2", b"\xff\xe1\0\x0aExif\0\0ab"], ids=["fill", "com", "exif"])
def test_a_jpeg_header_of_millions_of_parts_is_refused(part: bytes, few_reads: None) -> None:
    content = encode(scene(), "JPEG")
    assert "parts" in refusal(content[:2] + part * (200_000 // len(part)) + content[2:])


@pytest.mark.parametrize(("marker", "process"), [(0xC5, "hierarchical"), (0xF7, "JPEG-LS")])
def test_unsupported_kinds_of_jpeg_are_named(marker: int, process: str) -> None:
    reason = refusal(jpeg(8, 8, 1).replace(b"\xff\xc2", bytes([0xFF, marker])))
    assert process in reason and "not supported" in reason


# --- PNG, GIF, PPM --------------------------------------------------------------------------------


def png_with(before: bytes = b"", after: bytes = b"") -> bytes:
    content = encode(scene(), "PNG")
    data = content.index(b"IDAT") - 4
    return content[:data] + before + content[data:-12] + after + content[-12:]


@pytest.mark.parametrize("kind", [b"prVt", b"tEXt"])
def test_a_png_of_millions_of_chunks_is_refused(kind: bytes, few_reads: None) -> None:
    many = png_chunk(kind, b"k\0v" if kind == b"tEXt" else b"") * 10_000
    assert "tiny parts" in refusal(png_with(before=many))
    assert "tiny parts" in refusal(png_with(after=many))


def test_a_png_in_chunks_of_one_byte_is_read() -> None:
    content = encode(scene(20, 15), "PNG")
    data = content.index(b"IDAT") - 4
    pixels = content[data + 8 : -16]
    single = b"".join(png_chunk(b"IDAT", pixels[place : place + 1]) for place in range(len(pixels)))
    assert load_image(content[:data] + single + content[-12:]) == scene(20, 15)


LONG = b"k\0" + b"\0" + zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "chunks",
    [
        png_chunk(b"zTXt", LONG),
        png_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
        b"".join(png_chunk(b"zTXt", b"%d\0\0" % number + zlib.compress(bytes(1_000_000))) for number in range(70)),
        png_chunk(b"iCCP", LONG),
    ],
    ids=["zTXt", "iTXt", "many", "iCCP"],
)
def test_a_sound_png_with_megabytes_of_text_is_read(chunks: bytes, place: str, tmp_path: Any) -> None:
    content = png_with(**{place: chunks})
    assert load_image(content) == scene()
    path = tmp_path / "a.png"
    path.write_bytes(content)
    check_file(path)
    with pytest.raises(ImageError, match="truncated"):
        load_image(content[: content.index(b"IDAT") + 200] + content[-12:])


def test_a_png_with_long_text_in_an_icon_is_not_called_damaged() -> None:
    content = encode(Image.new("RGB", (256, 256)), "PNG")
    data = content.index(b"IDAT") - 4
    reason = refusal(ico(content[:data] + png_chunk(b"zTXt", LONG) + content[data:]))
    assert reason.startswith("its text") and "damaged" not in reason


def test_a_gif_of_a_million_comments_is_refused(few_reads: None) -> None:
    content = encode(scene().quantize(16), "GIF")
    image = content.index(b",\0\0\0\0")
    assert "tiny parts" in refusal(content[:image] + b"!\xfe\1a\0" * 10_000 + content[image:])


def test_a_ppm_of_spaces_is_refused(few_reads: None) -> None:
    assert "tiny parts" in refusal(b"P6 " + b" " * 100_000 + b"1 1 255\nabc")


# --- TIFF -----------------------------------------------------------------------------------------


def test_a_tile_far_larger_than_the_image_is_refused() -> None:
    pixels = zlib.compress(bytes(1000))
    content = tiff({256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 322: 40_000, 323: 40_000, 324: 8, 325: len(pixels)})
    assert refusal(content).startswith("it declares 100 x 100 pixels, but holds 1,600,000,000 to decode")
    small = Image.new("L", (10, 10), 7)
    padded = zlib.compress(np.pad(np.asarray(small), ((0, 246), (0, 246))).tobytes())
    tags = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 322: 256, 323: 256, 325: len(padded)}
    assert load_image(tiff(tags, {324: padded})) == small.convert("RGB")


def test_the_scans_of_a_jpeg_in_a_tiff_are_limited() -> None:
    tags = {256: 64, 257: 64, 258: 8, 262: 1, 277: 1, 278: 64, 259: 7}
    for scans in (20, 21):
        strip = jpeg(64, 64, scans)
        content = tiff({**tags, 279: len(strip)}, {273: strip})
        if scans == 20:
            assert load_image(content).size == (64, 64)
        else:
            assert "it has more than 20 scans" in refusal(content)


def test_strips_that_cover_the_image_many_times_are_refused() -> None:
    tags: dict[int, Any] = {256: 1000, 257: 1000, 258: 8, 259: 1, 262: 1, 278: 500}
    content = tiff({**tags, 273: [8] * 500, 279: [500_000] * 500})
    assert "cover it many times" in refusal(content + bytes(500_000))
    assert "200,000 strips or tiles" in refusal(tiff({**tags, 273: [8] * 200_000}))


def test_tags_that_share_their_bytes_are_refused() -> None:
    shared = struct.pack("<HHII", 700, 7, 100_000, 8)
    entries = b"".join(struct.pack("<H", 400 + number) + shared[2:] for number in range(1000))
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", 1000) + entries + bytes(4) + bytes(100_000)
    assert "its tags claim more bytes than it has" in refusal(content)


# --- icons ----------------------------------------------------------------------------------------


def ico(*images: bytes, kind: int = 1) -> bytes:
    content = struct.pack("<HHH", 0, kind, len(images))
    place = 6 + 16 * len(images)
    for image in images:
        content += struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(image), place)
        place += len(image)
    return content + b"".join(images)


@pytest.mark.parametrize("kind", [1, 2])
def test_an_icon_far_larger_than_its_directory_declares_is_refused(kind: int) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 10_000, 20_000, 1, 32, 0, 0, 0, 0, 0, 0)
    assert "but holds 100,000,000 to decode" in refusal(ico(header + bytes(100), kind=kind))


def test_both_limits_apply_to_a_png_in_an_icon() -> None:
    content = ico(encode(Image.new("RGB", (3000, 3000)), "PNG"))
    assert "it declares 256 x 256 pixels, but holds 9,000,000 to decode" in refusal(content)
    assert "above the limit of 1,000,000" in refusal(content, max_pixels=1_000_000)
    assert load_image(ico(encode(scene(256, 256), "PNG"))) == scene(256, 256)
    assert "icons" in refusal(struct.pack("<HHH", 0, 1, 2000) + bytes(32_000))


# --- JPEG 2000 ------------------------------------------------------------------------------------


def j2k(width: int, height: int, **options: Any) -> bytes:
    """A JPEG 2000 codestream of empty tiles."""
    options = {"tile": (width, height), "channels": 1, "layers": 1, "block": 4, "precinct": None, **options}
    precinct = options["precinct"]
    size = struct.pack(">H8IH", 0, width, height, 0, 0, *options["tile"], 0, 0, options["channels"])
    style = struct.pack(">BBHBB", precinct is not None, 0, options["layers"], 0, 5) + bytes(
        [options["block"]] * 2 + [0, 1]
    )
    style += bytes([precinct] * 6) if precinct is not None else b""
    content = b"\xff\x4f" + segment(0x51, size + b"\7\1\1" * options["channels"]) + segment(0x52, style)
    content += segment(0x5C, b"\x40" + b"\x40" * 16)
    return content + segment(0x90, struct.pack(">HIBB", 0, 114, 0, 1)) + b"\xff\x93" + bytes(100) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tile": (10, 10)}, "160,000 tiles"),
        ({"channels": 1000}, "1000 channels"),
        ({"precinct": 0x11}, "small blocks"),
        ({"block": 0}, "small blocks"),
        ({"tile": (100, 100), "layers": 65_535}, "layers"),
    ],
)
def test_a_jpeg_2000_of_millions_of_structures_is_refused(options: dict[str, Any], reason: str) -> None:
    assert load_image(j2k(100, 100)).size == (100, 100)
    assert reason in refusal(j2k(4000, 4000, **options) if "block" not in options else j2k(12_000, 12_000, **options))


def test_ordinary_options_of_jpeg_2000_are_read() -> None:
    for options in (
        {"tile_size": (64, 64)},
        {"quality_layers": [40, 20, 10]},
        {"precinct_size": (128, 128), "codeblock_size": (16, 16)},
        {"no_jp2": True},
    ):
        content = encode(scene(300, 200), "JPEG2000", irreversible=False, **options)
        assert distance(load_image(content), scene(300, 200)) < 3, options


# --- AVIF and HEIC --------------------------------------------------------------------------------


@NO_AVIF
def test_an_avif_that_declares_less_than_it_holds_is_refused() -> None:
    content = encode(Image.new("RGB", (3000, 2000)), "AVIF", speed=10)
    assert load_image(content).size == (3000, 2000)
    assert refusal(declaring(content, 100, 100)).startswith("it declares 100 x 100 pixels, but holds 5,")
    assert "3000 x 2000 is 6,000,000 pixels, above the limit" in refusal(declaring(content, 90, 90), max_pixels=10_000)


def repeated(content: bytes, times: int) -> bytes:
    """An AVIF with its image coded ``times`` times, one of them shown."""
    start = content.index(b"mdat") + 4
    item, coded = content[start:], content[start:] * times
    place = content.index(struct.pack(">I", len(item)), content.index(b"iloc"))
    head = content[:place] + struct.pack(">I", len(coded)) + content[place + 4 : start - 8]
    return head + struct.pack(">I", len(coded) + 8) + b"mdat" + coded


@NO_AVIF
def test_an_avif_of_many_layers_is_refused() -> None:
    content = encode(Image.new("RGB", (2000, 2000)), "AVIF", speed=10)
    assert load_image(repeated(content, 2)).size == (2000, 2000)
    assert "it declares 2000 x 2000 pixels, but holds" in refusal(repeated(content, 100))
    small = encode(Image.new("RGB", (64, 64)), "AVIF", speed=10)
    assert "AV1 data" in refusal(repeated(small, 20_000))


@NO_AVIF
def test_avif_with_transparency_and_animations_are_read() -> None:
    clear = encode(Image.new("RGBA", (640, 480), (0, 0, 0, 0)), "AVIF", speed=10)
    assert load_image(clear).getpixel((300, 200)) == (255, 255, 255)
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime")]
    moving = encode(frames[0], "AVIF", speed=10, save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(load_image(moving)).astype(int)[20, 20] - (255, 0, 0)).max() < 8


@NO_AVIF
@pytest.mark.parametrize("options", [{}, {"save_all": True, "append_images": [Image.new("RGB", (640, 480), "red")]}])
def test_the_size_in_the_coded_avif_is_found(options: dict[str, Any]) -> None:
    content = encode(Image.new("RGB", (640, 480)), "AVIF", speed=10, **options)  # a still and a film differ in headers
    total, largest = coded_pixels(declaring(content, 0, 0), "x")
    assert largest == (640, 480) and total >= 577 * 417


def test_a_grid_of_heic_images_counts_all_of_them() -> None:
    def box(kind: bytes, *parts: bytes) -> bytes:
        return struct.pack(">I", sum(map(len, parts)) + 8) + kind + b"".join(parts)

    def item(number: int, kind: bytes) -> bytes:
        return box(b"infe", b"\2\0\0\0", struct.pack(">HH", number, 0), kind, b"\0")

    def nested(levels: int, copies: int) -> bytes:
        """Item 1 is coded; each further item consists of ``copies`` of its predecessor."""
        numbers = range(1, levels + 2)
        items = [item(number, b"hvc1" if number == 1 else b"iovl") for number in numbers]
        links = [struct.pack(">HH", n, copies) + struct.pack(">H", n - 1) * copies for n in numbers[1:]]
        sizes = box(b"ipco", box(b"ispe", bytes(4), struct.pack(">II", 1063, 1063)))
        owners = box(
            b"ipma", bytes(4), struct.pack(">I", len(numbers)), *(struct.pack(">HBB", n, 1, 1) for n in numbers)
        )
        return box(
            b"meta",
            bytes(4),
            box(b"pitm", bytes(4), struct.pack(">H", levels + 1)),
            box(b"iinf", bytes(4), struct.pack(">H", len(items)), *items),
            box(b"iref", bytes(4), *(box(b"dimg", link) for link in links)),
            box(b"iprp", sizes, owners),
        )

    assert coded_pixels(nested(0, 0), "x") == (1_000_000, (1063, 1063))
    assert coded_pixels(nested(1, 48), "x")[0] == 49_000_000
    assert coded_pixels(nested(7, 8), "x")[0] > 2_000_000_000_000
    with pytest.raises(ImageError, match="too many steps"):
        coded_pixels(nested(20, 1), "x")


# --- deep grey ------------------------------------------------------------------------------------


def test_reducing_sixteen_bits_takes_a_few_bytes_a_pixel() -> None:
    content = encode(Image.fromarray(np.zeros((3000, 3000), np.uint16)), "PNG")
    tracemalloc.start()
    load_image(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9_000_000 * 7  # it was 17
