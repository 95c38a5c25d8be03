"""HEIF and AVIF files that a test writes box by box, in all the ways that the formats allow."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest

from captioner.data.heif_boxes import PADDING, check_item_kinds, coded_pixels
from captioner.errors import ImageError

LEAST = 4096  # pixels that an image counts at least


def box(kind: bytes, *content: bytes, long: bool = False, last: bool = False) -> bytes:
    body = b"".join(content)
    if last:
        return struct.pack(">I4s", 0, kind) + body
    if long:
        return struct.pack(">I4sQ", 1, kind, len(body) + 16) + body
    return struct.pack(">I4s", len(body) + 8, kind) + body


def full(kind: bytes, version: int, *content: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_the_kinds_of_items_are_text_and_their_names_anything(version: int) -> None:
    head = bytes([0xFF] * (6 if version == 3 else 4))  # a number and a protection
    kind = b"mime" if version > 1 else b""
    for long in (False, True):
        for texts, fine in ((b"\xe9\0text/xml\0", True), (b"\0text/\xe9ml\0", False), (b"\0\0", True)):
            entries = full(b"infe", version, head, kind, texts)
            file = full(b"meta", 0, full(b"iinf", long, number(1, 4 if long else 2), entries))
            if not fine:
                with pytest.raises(ValueError, match="not text"):
                    check_item_kinds(file)
                continue
            for end in range(len(file) + 1):
                check_item_kinds(file[:end])


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def sequence(width: int, height: int, draw: random.Random) -> bytes:
    """Write a sequence header of AV1 (section 5.5 of its specification) with random options."""
    bits = ""

    def put(value: int, count: int) -> None:
        nonlocal bits
        bits += f"{value:0{count}b}" if count else ""

    put(draw.randrange(3), 3)
    put(draw.randrange(2), 1)
    reduced = draw.random() < 0.2
    put(reduced, 1)
    if reduced:
        put(draw.randrange(32), 5)
    else:
        timing, model, delay = draw.random() < 0.6, False, 0
        put(timing, 1)
        if timing:
            put(draw.randrange(1 << 32), 32)
            put(draw.randrange(1 << 32), 32)
            equal = draw.random() < 0.5
            put(equal, 1)
            if equal:
                zeros = draw.randrange(6)
                put(1, zeros + 1)
                put(draw.randrange(1 << zeros), zeros)
            model = draw.random() < 0.5
            put(model, 1)
            if model:
                delay = draw.randrange(1, 33)
                put(delay - 1, 5)
                put(draw.randrange(1 << 32), 32)
                put(draw.randrange(32), 5)
                put(draw.randrange(32), 5)
        displays = draw.random() < 0.5
        put(displays, 1)
        points = draw.randrange(1, 4)
        put(points - 1, 5)
        for _ in range(points):
            put(draw.randrange(1 << 12), 12)
            level = draw.choice((0, 7, 8, 31))
            put(level, 5)
            if level > 7:
                put(draw.randrange(2), 1)
            if model:
                present = draw.random() < 0.5
                put(present, 1)
                if present:
                    put(draw.randrange(1 << 2 * delay + 1), 2 * delay + 1)
            if displays:
                present = draw.random() < 0.5
                put(present, 1)
                if present:
                    put(draw.randrange(16), 4)
    wide = draw.randrange((width - 1).bit_length(), 17)
    high = draw.randrange((height - 1).bit_length(), 17)
    put(wide - 1, 4)
    put(high - 1, 4)
    put(width - 1, wide)
    put(height - 1, high)
    bits += "1" * 40  # the rest must not matter
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def unit(kind: int, content: bytes, *, extended: bool = False, sized: bool = True) -> bytes:
    """Write a unit of AV1 (section 5.3)."""
    head = bytes([kind << 3 | extended << 2 | sized << 1]) + (b"\x08" if extended else b"")
    size, left = b"", len(content)
    while sized:
        size += bytes([left & 127 | (128 if left > 127 else 0)])
        left >>= 7
        if not left:
            break
    return head + size + content


def av1(sizes: Sequence[tuple[int, int]], frames: int, draw: random.Random) -> bytes:
    """Write a coded image: a delimiter, sequence headers and frames."""
    parts = [unit(2, b"")]
    parts += [unit(1, sequence(*size, draw), extended=draw.random() < 0.5) for size in sizes]
    parts += [unit(draw.choice((3, 6)), bytes(draw.randrange(300))) for _ in range(frames)]
    parts.append(unit(5, b"metadata", sized=draw.random() < 0.5))
    return b"".join(parts)


def area(width: int, height: int) -> int:
    return max(width - PADDING, 0) * max(height - PADDING, 0)


def pack(
    items: dict[int, tuple[bytes, list[bytes]]],
    sizes: dict[int, tuple[int, int]],
    references: Sequence[tuple[bytes, int, list[int]]],
    draw: random.Random,
    primary: int = 1,
) -> bytes:
    """Write a file of images, each of a kind and made of parts that lie anywhere."""
    version, wide = draw.choice(((0, 2), (1, 4)))
    places = draw.choice((0, 1, 2))
    offset_size, length_size, base_size, index_size = (
        draw.choice((4, 8)),
        draw.choice((4, 8)),
        draw.choice((0, 4, 8)),
        0,
    )
    inner = places > 0 and draw.random() < 0.5  # the images lie in the box "idat"
    if places:
        index_size = draw.choice((0, 4))
    data = b"".join(part for _, parts in items.values() for part in parts)
    infos = []
    for item, (kind, _) in items.items():
        entry = draw.choice((2, 3))
        infos.append(full(b"infe", entry, number(item, 4 if entry == 3 else 2), number(0, 2), kind, b"name\0"))
    properties, associations = [full(b"pixi", 0, b"\x03\x08\x08\x08")], []
    large = draw.random() < 0.5  # indices of 15 bits
    for item, size in sizes.items():
        properties.append(full(b"ispe", 0, struct.pack(">II", *size)))
        index = len(properties)
        indices = [number(index | 0x8000, 2) if large else number(index | 0x80, 1), number(1, 2 if large else 1)]
        associations.append(number(item, wide) + number(len(indices), 1) + b"".join(indices))

    def meta(start: int) -> bytes:
        rows, place = [], start
        for item, (_, parts) in items.items():
            base = draw.randrange(place + 1) if base_size else 0
            row = number(item, 4 if places == 2 else 2) + (number(inner, 2) if places else b"")
            row += number(0, 2) + number(base, base_size) + number(len(parts), 2)
            for part in parts:
                row += number(0, index_size) + number(place - base, offset_size) + number(len(part), length_size)
                place += len(part)
            rows.append(row)
        layout = number(offset_size << 12 | length_size << 8 | base_size << 4 | index_size, 2)
        count = number(len(items), 4 if places == 2 else 2)
        parts = [
            full(b"pitm", version, number(primary, wide)),
            full(b"iloc", places, layout, count, *rows),
            full(b"iinf", version, number(len(items), wide), *infos),
            full(
                b"iref",
                version,
                *(box(kind, number(item, wide), number(len(to), 2), *(number(each, wide) for each in to))
                  for kind, item, to in references),
            ),
            box(
                b"iprp",
                box(b"ipco", *properties),
                full(b"ipma", version, number(len(associations), 4), *associations, flags=int(large)),
            ),
        ]  # fmt: skip
        if inner:
            parts.append(box(b"idat", data))
        order = draw.sample(parts, len(parts))
        return full(b"meta", 0, *order)

    head = box(b"ftyp", b"avif\0\0\0\0mif1")
    if inner:
        return head + meta(0)
    state = draw.getstate()
    start = len(head) + len(meta(0)) + 8
    draw.setstate(state)
    return head + meta(start) + box(b"mdat", data, last=draw.random() < 0.5)


@pytest.mark.parametrize("seed", range(60))
def test_a_coded_image_has_the_size_in_its_own_header(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [(draw.randrange(130, 5000), draw.randrange(130, 5000)) for _ in range(draw.choice((1, 1, 2)))]
    frames = draw.choice((1, 1, 3))
    coded = av1(sizes, frames, draw)
    cut = draw.randrange(1, len(coded))
    parts = draw.choice(([coded], [coded[:cut], coded[cut:]]))
    total, largest = coded_pixels(pack({1: (b"av01", parts)}, {1: (100, 100)}, [], draw), "a.avif")
    assert largest == max(sizes, key=lambda size: area(*size))
    assert total == frames * max(area(*size) for size in sizes)


@pytest.mark.parametrize("seed", range(20))
def test_a_grid_counts_its_parts_and_their_transparency(seed: int) -> None:
    draw = random.Random(seed)
    sizes = {item: (draw.randrange(100, 3000), draw.randrange(100, 3000)) for item in (1, 2, 3, 4, 5)}
    small = (70, 70)  # counts as the minimum
    items = {item: (b"grid" if item == 1 else b"hvc1", [bytes(9)]) for item in (1, 2, 3, 4, 5, 6)}
    references = [(b"dimg", 1, [2, 3, 6]), (b"auxl", 4, [1]), (b"thmb", 5, [1])]
    total, largest = coded_pixels(pack(items, {**sizes, 6: small}, references, draw), "a.heic")
    used = [sizes[item] for item in (1, 2, 3, 4)]  # not the thumbnail
    assert total == sum(max(LEAST, area(*size)) for size in used) + LEAST
    assert largest == max(used, key=lambda size: area(*size))


def test_the_primary_image_alone_is_decoded() -> None:
    draw = random.Random(0)
    items = {item: (b"hvc1", [bytes(9)]) for item in (1, 2)}
    sizes = {1: (1000, 900), 2: (400, 300)}
    for primary, size in sizes.items():
        assert coded_pixels(pack(items, sizes, [], draw, primary), "a.heic") == (area(*size), size)


def test_an_image_derived_from_itself_or_in_too_many_steps() -> None:
    draw = random.Random(0)
    items = {item: (b"grid", [bytes(9)]) for item in range(1, 12)}
    sizes = {1: (1000, 900)}
    loop = pack(items, sizes, [(b"dimg", 1, [2]), (b"dimg", 2, [1])], draw)
    assert coded_pixels(loop, "a.heic") == (area(1000, 900) + LEAST, (1000, 900))
    chain = [(b"dimg", item, [item + 1]) for item in range(1, 9)]  # 8 steps
    assert coded_pixels(pack(items, sizes, chain, draw), "a.heic")[0] == area(1000, 900) + 8 * LEAST
    with pytest.raises(ImageError, match="too many steps"):
        coded_pixels(pack(items, sizes, [*chain, (b"dimg", 9, [10])], draw), "a.heic")


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("equal", [False, True])
def test_the_first_frame_of_a_track_is_decoded_too(wide: bool, equal: bool) -> None:
    draw = random.Random(1)
    coded = av1([(640, 480)], 1, draw)
    head = box(b"ftyp", b"avis\0\0\0\0msf1")

    def movie(start: int) -> bytes:
        table = full(
            b"stsz",
            0,
            number(len(coded) if equal else 0, 4),
            number(2, 4),
            *([] if equal else [number(len(coded), 4), number(7, 4)]),
        )
        offsets = full(b"co64" if wide else b"stco", 0, number(1, 4), number(start, 8 if wide else 4))
        tables = box(b"stbl", full(b"stsd", 0, number(0, 4)), table, offsets)
        return box(
            b"moov", full(b"mvhd", 0), box(b"trak", full(b"tkhd", 0), box(b"mdia", box(b"minf", tables)), long=wide)
        )

    file = head + movie(len(head) + len(movie(0)) + 8) + box(b"mdat", coded)
    assert coded_pixels(file, "a.avif") == (LEAST + area(640, 480), (640, 480))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("extents", [1, 60_000])
def test_an_extent_without_offset_and_length_is_the_rest_of_the_file(extents: int, last: bool) -> None:
    draw = random.Random(3)
    coded = av1([(640, 480)], 1, draw)
    head = box(b"ftyp", b"avif\0\0\0\0mif1")

    def meta(start: int) -> bytes:
        row = number(1, 2) + number(0, 2) + number(start, 4) + number(extents, 2)
        if not last:
            row += number(2, 2) + number(0, 2) + number(0, 4) + number(0, 2)
        kinds = full(b"infe", 2, number(1, 2), number(0, 2), b"av01", b"\0")
        return full(
            b"meta",
            0,
            full(b"pitm", 0, number(1, 2)),
            full(b"iloc", 0, number(4 << 4, 2), number(1 if last else 2, 2), row),
            full(b"iinf", 0, number(1, 2), kinds),
        )

    file = head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", coded)
    assert coded_pixels(file, "a.avif") == (area(640, 480), (640, 480))
