"""Image files of every kind that holds XMP, what is to stay the same in them, and exiftool."""

from __future__ import annotations

import atexit
import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PERSON = "Grandma's 80th – with Zoë & <us>"
EXIFTOOL = shutil.which("exiftool")
needs_exiftool = pytest.mark.skipif(
    EXIFTOOL is None, reason="exiftool is not installed; apt-get install libimage-exiftool-perl"
)


@cache
def _started() -> subprocess.Popen[bytes]:
    """Start exiftool once for all calls: it starts ten times as long as it works."""
    assert EXIFTOOL is not None
    command = [EXIFTOOL, "-stay_open", "True", "-@", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(process.communicate, b"-stay_open\nFalse\n")
    return process


def exiftool(*arguments: str | Path) -> bytes:
    """Run exiftool and return what it prints; it must succeed."""
    process = _started()
    assert process.stdin is not None and process.stdout is not None
    lines = [*map(str, arguments), "-echo3", "{status ${status}}", "-execute"]
    process.stdin.write("".join(f"{line}\n" for line in lines).encode())
    process.stdin.flush()
    printed = b""
    while not printed.endswith(b"{ready}\n"):
        line = process.stdout.readline()
        assert line, "exiftool has ended"
        printed += line
    printed, _, status = printed.rpartition(b"{status ")
    assert status == b"0}\n{ready}\n"
    return printed


def tags(*paths: Path) -> list[dict[str, Any]]:
    """Return all metadata of files as exiftool reads it, by group and name, with the faults that it finds."""
    return json.loads(exiftool("-j", "-G1", "-a", "-validate", "-warning", "-error", "-all:all", *paths))


def picture(mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return a small image that no encoder makes tiny."""
    channels = {"RGB": (3,), "RGBA": (4,), "CMYK": (4,)}.get(mode, ())
    noise = np.random.default_rng(seed).integers(0, 256, (24, 36, *channels), dtype=np.uint8)
    image = Image.fromarray(noise)
    return image.convert("RGB").convert("CMYK") if mode == "CMYK" else image.convert("P") if mode == "P" else image


def _exif(order: str = "MM") -> Image.Exif:
    exif = Image.Exif()
    exif.endian = ">" if order == "MM" else "<"
    exif[271] = "A camera"
    return exif


def _big_endian_tiff(path: Path) -> None:
    """Write an uncompressed big-endian TIFF of one strip, with the image after its directory, as scanners do."""
    data = picture("L").tobytes()
    entries = [(256, 3, 36 << 16), (257, 3, 24 << 16), (258, 3, 8 << 16), (259, 3, 1 << 16), (262, 3, 1 << 16)]
    entries += [(273, 4, 200), (277, 3, 1 << 16), (278, 3, 24 << 16), (279, 4, len(data))]
    directory = b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"MM\0*" + struct.pack(">IH", 8, len(entries)) + directory + bytes(4)
    path.write_bytes(head.ljust(200, b"\0") + data)


def _big_endian_bigtiff(path: Path) -> None:
    data = picture("L").tobytes()
    entries = [(256, 3, 36), (257, 3, 24), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    entries += [(273, 16, 300), (277, 3, 1), (278, 3, 24), (279, 16, len(data))]
    directory = b"".join(
        struct.pack(">HHQ", tag, kind, 1) + (struct.pack(">Q", value) if kind == 16 else struct.pack(">H6x", value))
        for tag, kind, value in entries
    )
    head = b"MM\0+" + struct.pack(">HHQQ", 8, 0, 16, len(entries)) + directory + bytes(8)
    path.write_bytes(head.ljust(300, b"\0") + data)


def _save(mode: str = "RGB", **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        frames = {}
        if options.get("save_all"):
            frames["append_images"] = [picture(mode, seed) for seed in (1, 2)]
        picture(mode).save(path, **options, **frames)

    return write


SAMPLES: dict[str, Callable[[Path], None]] = {
    "baseline.jpg": _save(quality=90),
    "progressive.jpg": _save(quality=90, progressive=True, exif=_exif()),
    "profile.jpg": _save(quality=90, icc_profile=bytes(70_000), exif=_exif("II"), comment=b"a comment"),
    "cmyk.jpg": _save("CMYK"),
    "two.mpo": _save(format="MPO", save_all=True),
    "plain.png": _save(),
    "palette.png": _save("P", exif=_exif()),
    "transparent.png": _save("RGBA"),
    "animated.png": _save(save_all=True),
    "lossy.webp": _save(quality=80),
    "lossless.webp": _save(lossless=True),
    "transparent.webp": _save("RGBA", lossless=True),
    "lossy_transparent.webp": _save("RGBA", quality=80),
    "profile.webp": _save(quality=80, exif=_exif(), icc_profile=bytes(71)),
    "animated.webp": _save("RGBA", save_all=True, quality=80),
    "plain.tif": _save(),
    "pages.tiff": _save(compression="tiff_lzw", save_all=True),
    "big.tif": _save(big_tiff=True),
    "motorola.tif": _big_endian_tiff,
    "big_motorola.tif": _big_endian_bigtiff,
}


def sample(name: str, folder: Path) -> Path:
    """Write a file of :data:`SAMPLES` into a folder."""
    path = folder / name
    SAMPLES[name](path)
    return path


def frames(path: Path) -> list[bytes]:
    """Return the decoded pixels of all frames or pages."""
    if path.name == "big_motorola.tif":  # a form that Pillow does not read
        return [compressed(path)]
    with Image.open(path) as image:
        found = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            found.append(f"{image.size}{image.mode}".encode() + image.convert("RGBA").tobytes())
        return found


def compressed(path: Path) -> bytes:
    """Return the compressed image as its format's specification finds it, by the plainest way through the file."""
    data = path.read_bytes()
    found = b""
    if data.startswith(b"\xff\xd8"):
        position = 2
        while data[position + 1] != 0xDA:
            kind, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
            if kind not in (0xE1, 0xE2):  # the segments of XMP, and of MPF, which says where the other images lie
                found += data[position : position + 2 + length]
            position += 2 + length
        return found + data[position:]
    if data.startswith(b"\x89PNG"):
        position = 8
        while position < len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            if kind not in (b"iTXt",):
                found += data[position : position + 12 + length]
            position += 12 + length
        return found
    if data.startswith(b"RIFF"):
        position = 12
        while position < len(data):
            kind, length = struct.unpack_from("<4sI", data, position)
            if kind not in (b"VP8X", b"XMP "):
                found += data[position : position + 8 + length]
            position += 8 + length + (length & 1)
        return found
    if path.name == "big_motorola.tif":
        return data[300 : 300 + 36 * 24]
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            for start, size in zip(image.tag_v2[273], image.tag_v2[279], strict=True):  # type: ignore[attr-defined]
                found += data[start : start + size]
    return found
