"""Costs beyond the header of a file: a file at a limit is read, one beyond it is refused."""

from __future__ import annotations

import io
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from captioner.data import decoding_cost as claims
from captioner.data.decoding_cost import (
    check_icons,
    check_jpeg,
    check_jpeg2000,
    check_tiff,
    check_tiles,
    jpeg2000_profile,
)
from captioner.errors import ImageError

LIMIT = 178_956_970


def tiff(order: str, big: bool, tags: list[tuple[int, int, int, int]], *, rest: bytes = b"") -> bytes:
    """Write the first page of a TIFF: (tag, kind, length, value or place) each, and what follows."""
    endian = "<" if order == "II" else ">"
    entries = b""
    for tag, kind, length, value in tags:
        short = struct.pack(endian + "H", value) if kind == 3 else struct.pack(endian + "I", value)
        entries += struct.pack(endian + ("HHQ" if big else "HHI"), tag, kind, length) + short.ljust(
            8 if big else 4, b"\0"
        )
    if big:
        head = order.encode() + struct.pack(endian + "HHHQ", 43, 8, 0, 16)
        return head + struct.pack(endian + "Q", len(tags)) + entries + bytes(8) + rest
    return (
        order.encode()
        + struct.pack(endian + "HI", 42, 8)
        + struct.pack(endian + "H", len(tags))
        + entries
        + bytes(4)
        + rest
    )


def accepted(check: Any, content: bytes, *, limit: int = LIMIT) -> bool:
    """Whether a check lets a file pass."""
    try:
        check(io.BytesIO(content), "a.file", limit)
    except ImageError as error:
        assert error.source == "a.file"
        return False
    return True


FORMS = pytest.mark.parametrize(("order", "big"), [("II", False), ("MM", False), ("II", True), ("MM", True)])


@FORMS
@pytest.mark.parametrize("tag", [273, 324])
def test_strips_and_tiles_are_counted(order: str, big: bool, tag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_MAX_RAW_PARTS", 3)
    monkeypatch.setattr(claims, "_MAX_PARTS", 5)
    for compression, most in ((1, 3), (5, 5), (None, 3)):
        for parts in (most, most + 1):
            tags = [(256, 4, 1, 10)] + ([] if compression is None else [(259, 3, 1, compression)])
            content = tiff(order, big, [*tags, (tag, 4, parts, 8)], rest=bytes(99))
            assert accepted(check_tiff, content) == (parts == most)


@FORMS
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((1, 1), (2, 1), (3, 2), (4, 4), (5, 8), (6, 1), (7, 1), (8, 2), (9, 4), (10, 8), (11, 4), (12, 8), (13, 4)),
        *((16, 8), (17, 8), (18, 8), (99, 0)),
    ],
)
def test_tags_claim_no_more_bytes_than_twice_those_of_the_file(order: str, big: bool, kind: int, size: int) -> None:
    end = len(tiff(order, big, [(700, kind, 1, 8)], rest=bytes(100)))
    most = 2 * end // (size or 1)
    assert accepted(check_tiff, tiff(order, big, [(700, kind, most, 8)], rest=bytes(100)))
    assert accepted(check_tiff, tiff(order, big, [(700, kind, most + 1, 8)], rest=bytes(100))) == (size == 0)
    inside = 8 if big else 4  # such values stand in the entry itself
    tags = [(700 + i, 1, inside, 8) for i in range(20)]
    assert accepted(check_tiff, tiff(order, big, [*tags, (800, 1, 2 * len(tiff(order, big, [*tags, tags[0]])), 8)]))


@FORMS
def test_a_tile_is_decoded_whole(order: str, big: bool) -> None:
    size = [(256, 4, 1, 1000), (257, 3, 1, 1000)]  # 4 x 1000 x 1000 and 4 x 1024 x 1024 pixels are fine
    for wide, high, fine in (
        (2048, 4001, True),
        (2048, 4002, False),
        (16, 16, True),
        (1, 8_194_304, True),
        (1, 8195, True),
    ):
        tags = [*size, (322, 4, 1, wide), (323, 4, 1, high)]
        expected = -(-1000 // wide) * wide * -(-1000 // high) * high <= 4 * 1000 * 1000 + 4 * 1024 * 1024
        assert accepted(check_tiff, tiff(order, big, tags)) == expected
        if wide == 2048:
            assert expected == fine


@FORMS
def test_each_jpeg_in_a_tiff_has_few_scans(order: str, big: bool) -> None:
    for compression in (6, 7):
        for scans in (20, 21):
            strips = (b"\xff\xd8" + b"\xff\xda..") + (b"\xff\xd8" + b"\xff\xda.." * scans)
            content = tiff(order, big, [(259, 3, 1, compression)], rest=strips)
            assert accepted(check_tiff, content) == (scans == 20)
    assert accepted(check_tiff, tiff(order, big, [(259, 3, 1, 5)], rest=b"\xff\xda.." * 21))


def test_a_tiff_that_is_cut_is_left_to_its_decoder() -> None:
    content = tiff("II", False, [(256, 4, 1, 10), (273, 4, 10**6, 8)])
    assert accepted(check_tiff, content[:9]) and accepted(check_tiff, content[:12])


def jpeg(*, process: int = 0xC2, scans: int = 1, components: int = 3, in_scan: int = 3, height: int = 100,
         before: tuple[bytes, ...] = ()) -> bytes:  # fmt: skip
    """Write the markers of a JPEG, 100 pixels wide."""
    frame = struct.pack(">BHHB", 8, height, 100, components) + bytes(3 * components)
    parts = [b"\xff\xd8", *before, b"\xff" + bytes([process]) + struct.pack(">H", len(frame) + 2) + frame]
    scan = bytes([in_scan]) + bytes(2 * in_scan + 3)
    parts += [b"\xff\xda" + struct.pack(">H", len(scan) + 2) + scan + b"data\xff\x00\xff\xd0more"] * scans
    return b"".join(parts) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("limit", "most"), [(10**9, 100), (50_000, 100), (49_000, 98), (10_500, 21), (10_000, 20), (9_000, 20)]
)
def test_a_progressive_jpeg_has_as_many_scans_as_its_size_allows(limit: int, most: int) -> None:
    for process in (0xC2, 0xCA):
        assert accepted(check_jpeg, jpeg(process=process, scans=most), limit=limit)
        assert not accepted(check_jpeg, jpeg(process=process, scans=most + 1), limit=limit)
    # A scan of all colours cannot be repeated otherwise; one of some colours can.
    assert accepted(check_jpeg, jpeg(process=0xC0, scans=most + 1), limit=limit)
    assert not accepted(check_jpeg, jpeg(process=0xC0, scans=most + 1, in_scan=1), limit=limit)


def test_scans_behind_the_end_do_not_count() -> None:
    assert accepted(check_jpeg, jpeg(scans=100) + jpeg(scans=100))


def test_the_header_of_a_jpeg_has_few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    exif, other = b"\xff\xe1\x00\x0aExif\0\0xx", b"\xff\xe2\x00\x04xx"
    assert accepted(check_jpeg, jpeg(before=(exif,) * 100)) and not accepted(check_jpeg, jpeg(before=(exif,) * 101))
    assert accepted(check_jpeg, jpeg(before=(b"\xff\xe1\x00\x0ahttp:/xx",) * 200))
    monkeypatch.setattr(claims, "_MAX_SEGMENTS", 50)
    assert accepted(check_jpeg, jpeg(before=(other,) * 49)) and not accepted(check_jpeg, jpeg(before=(other,) * 51))
    assert not accepted(check_jpeg, jpeg(height=0)) and accepted(check_jpeg, jpeg(height=1))


def icon(*images: tuple[int, int, bool]) -> bytes:
    """Write an icon: the width, height and kind (PNG or BMP) of its images."""
    directory, data = b"", b""
    for width, height, png in images:
        directory += bytes(12) + struct.pack("<I", 6 + 16 * len(images) + len(data))
        head = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", abs(width), abs(height))
        data += head if png else struct.pack("<Iii", 40, width, height) + bytes(12)
    return struct.pack("<HHH", 0, 1, len(images)) + directory + data


def test_an_icon_is_hardly_larger_than_its_directory_can_declare() -> None:
    most = 4 * 256 * 256 + 4 * 1024 * 1024  # pixels
    for png, twice in ((True, 1), (False, 2)):  # the other half of a BMP is its mask
        assert accepted(check_icons, icon((1, 1, png), (most, twice, png)))
        assert not accepted(check_icons, icon((1, 1, png), (most + 1, twice, png)))
        assert accepted(check_icons, icon((10, 10 * twice, png)), limit=100)
        assert not accepted(check_icons, icon((101, twice, png)), limit=100)
    assert accepted(check_icons, icon((-256, -512, False)))
    assert not accepted(check_icons, icon((-most - 1, -2, False)))


def test_an_icon_holds_few_images() -> None:
    assert accepted(check_icons, icon(*[(1, 1, True)] * 1000)) and not accepted(
        check_icons, icon(*[(1, 1, True)] * 1001)
    )
    assert accepted(check_icons, b"\0\0\1\0") and accepted(check_icons, icon((1, 1, True))[:20])


def test_parts_do_not_cover_an_image_many_times() -> None:
    def covering(width: int, height: int, *boxes: tuple[int, int, int, int]) -> bool:
        tiles = [("raw", box, 0, None) for box in boxes] + [("raw", None, 0, None)]
        try:
            check_tiles(SimpleNamespace(tile=tiles, width=width, height=height, format="TIFF"), "a.tif")  # type: ignore[arg-type]
        except ImageError as error:
            assert "cover it many times" in str(error)
            return False
        return True

    whole = (0, 0, 100, 200)
    assert covering(100, 200, *[whole] * 8) and not covering(100, 200, *[whole] * 8, (5, 7, 6, 8))
    assert covering(2, 2, (10, 10, 4106, 18)) and not covering(2, 2, (10, 10, 4107, 18))  # at least 4096 pixels count
    assert covering(2, 2)


def codestream(width: int, height: int, *, tile: tuple[int, int] = (0, 0), depths: tuple[int, ...] = (7,),
               offset: int = 0, styles: tuple[bytes, ...] = ()) -> bytes:  # fmt: skip
    """Write the header of a JPEG 2000 codestream (ISO 15444-1, annex A) of an image that begins at an offset."""
    wide, high = tile[0] or width + offset, tile[1] or height + offset
    corners = (width + offset, height + offset, offset, offset, wide, high, 0, 0)
    size = struct.pack(">H8IH", 0, *corners, len(depths)) + b"".join(bytes([depth, 1, 1]) for depth in depths)
    parts = [b"\xff\x4f\xff\x51", struct.pack(">H", len(size) + 2), size]
    for style in styles:
        parts.append(style)
    return b"".join(parts) + b"\xff\xd9" + bytes(8)


def coding_style(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def jp2(stream: bytes, *, colour: bytes = b"", long: bool = False) -> bytes:
    """Put a codestream into boxes."""

    def box(kind: bytes, content: bytes, long: bool = False) -> bytes:
        if long:
            return struct.pack(">I4sQ", 1, kind, len(content) + 16) + content
        return struct.pack(">I4s", len(content) + 8, kind) + content

    header = box(b"ihdr", bytes(14)) + (box(b"colr", colour) if colour else b"") + box(b"res ", b"colr")
    parts = [box(b"jP  ", b"\r\n\x87\n"), box(b"ftyp", b"jp2 ", long), box(b"jp2h", header), box(b"jp2c", stream, long)]
    return b"".join(parts)


@pytest.mark.parametrize("boxed", [None, False, True])
def test_a_jpeg_2000_has_few_tiles_channels_and_bits(boxed: bool | None) -> None:
    def fine(*size: int, limit: int = LIMIT, **settings: Any) -> bool:
        stream = codestream(*size, **settings)
        return accepted(check_jpeg2000, stream if boxed is None else jp2(stream, long=boxed), limit=limit)

    assert fine(128, 128, tile=(1, 1)) and not fine(129, 128, tile=(1, 1)) and not fine(128, 129, tile=(1, 1))
    assert fine(1, 16_384 * 3, tile=(1, 3)) and not fine(1, 16_384 * 3 + 1, tile=(1, 3))
    # Tiles are counted from the corner of the grid, not of the image.
    assert not fine(128, 128, tile=(1, 1), offset=1)
    assert fine(10, 10, depths=(7,) * 16) and not fine(10, 10, depths=(7,) * 17)
    assert fine(10, 10, depths=(7, 7, 0x87)) and not fine(10, 10, depths=(7, 7, 8)) and fine(10, 10, depths=(15,))
    assert fine(10, 10, limit=100) and not fine(10, 10, limit=99) and fine(10, 10, limit=100, offset=5)


@pytest.mark.parametrize("marker", [0x52, 0x53])
def test_a_jpeg_2000_has_few_blocks_and_layers(marker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimates are no less than what the standard gives (annex B), and at most three times that."""
    size, channels, levels = 512, 3, 2
    for layers, block, precinct in ((1, 4, 15), (4, 6, 15), (1, 6, 3), (5, 6, 6)):
        blocks = packets = 0
        for level in range(levels + 1):
            side = size >> (levels - level)
            blocks += (side >> min(block, precinct)) ** 2
            packets += max(1, (side >> precinct) ** 2) * layers
        style = bytes([levels, block - 2, block - 2, 0, 0]) + bytes([precinct << 4 | precinct] * (levels + 1))
        default = coding_style(0x52, bytes([0, 0]) + struct.pack(">H", layers) + bytes([0, 0, 4, 4, 0, 0]))
        own = coding_style(0x52, bytes([1, 0]) + struct.pack(">H", layers) + b"\0" + style)
        styles = (own,) if marker == 0x52 else (default, coding_style(0x53, bytes([0, 1]) + style))
        content = codestream(size, size, depths=(7,) * channels, styles=styles)
        for name, count in (("_MAX_J2K_BLOCKS", blocks), ("_MAX_J2K_PACKETS", packets)):
            for most, fine in ((count * channels - 1, False), (3 * count * channels + 20 * layers, True)):
                with monkeypatch.context() as patch:
                    patch.setattr(claims, "_MAX_J2K_BLOCKS", 10**9)
                    patch.setattr(claims, "_MAX_J2K_PACKETS", 10**9)
                    patch.setattr(claims, name, most)
                    assert accepted(check_jpeg2000, content) == fine, (layers, block, precinct, name)


def test_the_profile_of_a_jpeg_2000_is_found() -> None:
    stream = codestream(10, 10)
    for method, profile in ((1, None), (2, b"profile"), (3, b"profile")):
        content = jp2(stream, colour=bytes([method, 0, 0]) + b"profile")
        assert jpeg2000_profile(io.BytesIO(content)) == profile
    assert jpeg2000_profile(io.BytesIO(jp2(stream, colour=b"\x02\0\0profile", long=True))) == b"profile"
    assert jpeg2000_profile(io.BytesIO(jp2(stream))) is None and jpeg2000_profile(io.BytesIO(stream)) is None
