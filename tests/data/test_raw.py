"""Raw photos, as a DNG whose bytes are written here after Adobe's specification."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioner.data.find import find_images
from captioner.data.images import check_file, load_image
from captioner.errors import ImageError

RED, BLUE = (200, 30, 30), (30, 30, 200)


def dng(width: int = 600, height: int = 400, orientation: int = 1) -> bytes:
    """Return a photo of a Bayer sensor, red on the left and blue on the right."""
    rgb = np.empty((height, width, 3))
    rgb[:, : width // 2], rgb[:, width // 2 :] = RED, BLUE
    linear = ((rgb / 255) ** 2.2 * 65535).astype("<u2")
    sensor = linear[..., 1].copy()
    sensor[0::2, 0::2], sensor[1::2, 1::2] = linear[0::2, 0::2, 0], linear[1::2, 1::2, 2]
    short, long = (
        (lambda *values: (3, struct.pack(f"<{len(values)}H", *values))),
        (lambda value: (4, struct.pack("<I", value))),
    )
    colours = struct.pack("<18i", *(part for row in np.eye(3, dtype=int).ravel() for part in (int(row), 1)))
    tags: dict[int, tuple[int, bytes]] = {
        **{254: long(0), 256: long(width), 257: long(height), 258: short(16), 259: short(1), 262: short(32803)},
        **{271: (2, b"Nobody\0"), 272: (2, b"Camera\0"), 273: long(0), 274: short(orientation), 277: short(1)},
        **{278: long(height), 279: long(sensor.nbytes), 33421: short(2, 2), 33422: (1, bytes([0, 1, 1, 2]))},
        **{50706: (1, bytes([1, 4, 0, 0])), 50708: (2, b"Nobody Camera\0"), 50717: long(65535)},
        **{50721: (10, colours), 50728: (5, struct.pack("<6I", *[1] * 6)), 50778: short(21)},
    }
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 10: 8}
    rest = 10 + 12 * len(tags) + 4
    outside = [data for _, data in tags.values() if len(data) > 4]
    tags[273] = long(rest + sum(map(len, outside)))
    entries = b""
    for tag, (kind, data) in sorted(tags.items()):
        entries += struct.pack("<HHI", tag, kind, len(data) // sizes[kind])
        entries += data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", rest)
        rest += len(data) if len(data) > 4 else 0
    blocks = b"".join(data for _, (_, data) in sorted(tags.items()) if len(data) > 4)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + blocks + sensor.tobytes()


def test_a_raw_photo_is_developed(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    (tmp_path / "a.DNG").write_bytes(dng())
    (tmp_path / "turned.dng").write_bytes(dng(orientation=6))
    assert list(find_images([tmp_path])) == [tmp_path / "a.DNG", tmp_path / "turned.dng"]
    image = load_image(tmp_path / "a.DNG")
    assert (image.size, image.mode, check_file(tmp_path / "a.DNG")) == ((600, 400), "RGB", (600, 400))
    left, right = (np.array(image.getpixel((x, 200))) for x in (100, 500))
    assert left.argmax() == 0 and right.argmax() == 2
    assert load_image(tmp_path / "a.DNG", min_size=200).size == (300, 200)
    assert load_image(tmp_path / "a.DNG", min_size=201).size == (600, 400)
    turned = load_image(tmp_path / "turned.dng")
    assert turned.size == (400, 600) and np.array(turned.getpixel((200, 100))).argmax() == 0
    with pytest.raises(ImageError, match="240,000 pixels"):
        load_image(tmp_path / "a.DNG", max_pixels=1000)


@pytest.mark.parametrize("size", [40, 200, 1000])
def test_a_damaged_one_is_an_error(tmp_path: Path, size: int) -> None:
    pytest.importorskip("rawpy")
    (tmp_path / "a.dng").write_bytes(dng()[:size])
    with pytest.raises(ImageError, match=r"a\.dng: .*(LibRaw does not read|cut off)"):
        load_image(tmp_path / "a.dng")


def test_without_rawpy_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "rawpy", missing)
    monkeypatch.setattr("captioner.data.find.can_read_raw", lambda: False)
    (tmp_path / "a.nef").write_bytes(dng())
    assert not list(find_images([tmp_path], on_empty=lambda message: None))
    for source in (tmp_path / "a.nef", b"FUJIFILMCCD-RAW 0201"):
        with pytest.raises(
            ImageError, match=r"raw photos need rawpy; run: pip install 'captioner\[raw\]', or use the JPEG"
        ):
            load_image(source)
