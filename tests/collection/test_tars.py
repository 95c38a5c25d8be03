"""Tar files: every image once, links and holes included, and none that takes more than an image may."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from captioner.collection import limits
from captioner.collection.limits import MAX_IMAGE_BYTES, BadPart
from captioner.collection.tars import images_in_tar
from tests.collection.conftest import add, png

Found = list[tuple[str, bytes | str]]


def read(data: bytes) -> tuple[Found, str]:
    """Return the images of a tar file, and the reason if it is not read to its end."""
    found: Found = []
    try:
        for image in images_in_tar(lambda: nullcontext(io.BytesIO(data))):
            found.append(image)
    except BadPart as error:
        return found, str(error)
    return found, ""


def tar_of(*members: tuple[str, bytes | None, dict[str, Any]], format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar file: the name of each member, its bytes, and fields of its header."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for name, data, fields in members:
            member = tarfile.TarInfo(name)
            member.size = len(data or b"")
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data or b""))
    return stream.getvalue()


def link(name: str, target: str, kind: bytes) -> tuple[str, None, dict[str, Any]]:
    return name, None, {"type": kind, "linkname": target}


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a member's header, which claims a size."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def claims(data: bytes) -> tuple[Found, str, int]:
    """Return the images of a tar file, the reason if it is not read to its end, and the peak memory."""
    tracemalloc.start()
    found, why = read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, why, peak


GOOD: tuple[str, bytes, dict[str, Any]] = ("good.png", png(1), {})
TAIL = tar_of(GOOD)


@pytest.mark.parametrize("options", ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix"])
def test_holes_are_read_as_zeros_and_large_ones_not_at_all(tmp_path: Path, options: str) -> None:
    if "GNU tar" not in subprocess.run(["tar", "--version"], capture_output=True, text=True).stdout:
        pytest.skip("needs GNU tar")
    small = bytearray(3 << 20)
    small[1 << 20 : (1 << 20) + 5] = b"bytes"
    for name, size, at in (("a.png", 3 << 20, 1 << 20), ("b.png", 5_900_000_000, 1 << 20)):
        with open(tmp_path / name, "wb") as file:
            file.seek(at)
            file.write(b"bytes")
            file.truncate(size)
    (tmp_path / "good.png").write_bytes(png(1))
    command = f"tar -C {tmp_path} --sparse --format={options} -cf {tmp_path}/t.tar a.png b.png good.png"
    subprocess.run(command.split(), check=True)
    if os.path.getsize(tmp_path / "t.tar") > 1 << 20:
        pytest.skip("this file system has no holes")
    found, why, peak = claims((tmp_path / "t.tar").read_bytes())
    assert why == "" and [name for name, _ in found] == ["a.png", "b.png", "good.png"]
    assert found[0][1] == bytes(small) and found[2][1] == png(1)
    assert (
        found[1][1]
        == f"has 5,900,000,000 bytes, more than the {MAX_IMAGE_BYTES:,} that are read; save it as a smaller file"
    )
    assert peak < 20 << 20


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_images_after_one_that_is_too_large_are_read(pack: Callable[[bytes], bytes], monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", 1 << 20)
    data = pack(tar_of(("a.png", bytes((1 << 20) + 1), {}), ("b.png", bytes(1 << 20), {}), GOOD))
    found, why = read(data)
    assert why == "" and "has 1,048,577 bytes" in str(found[0][1])
    assert [content for _, content in found[1:]] == [bytes(1 << 20), png(1)]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_unpacking_without_end_is_stopped(pack: Callable[[bytes], bytes], monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "_ALLOWED", 8 << 20)
    zeros = bytes(20 << 20)
    data = pack(TAIL[:1024] + header("skipped.bin", len(zeros)) + zeros + TAIL)
    found, why, peak = claims(data)
    assert found == [("good.png", png(1))]
    assert why.startswith("the tar file ends or breaks after 1 images (") and "over 100 times as many" in why
    assert peak < 16 << 20  # xz has a window of 8 MB


def test_a_tar_of_several_compressed_streams_is_read_to_its_end() -> None:
    data = tar_of(("a.png", png(0), {}), GOOD)
    assert read(gzip.compress(data[:700]) + gzip.compress(data[700:])) == read(data)
    assert len(read(data)[0]) == 2


BIG = 3 << 30
MAP = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}


@pytest.mark.parametrize(
    "data",
    [
        header("x", BIG, tarfile.XHDTYPE),
        header("x", BIG, tarfile.XGLTYPE),
        header("x", BIG, tarfile.SOLARIS_XHDTYPE),
        header("x", BIG, tarfile.GNUTYPE_LONGNAME),
        header("x", BIG, tarfile.GNUTYPE_LONGLINK),
        header("x", 1 << 70, tarfile.XHDTYPE),
        header("x", -5, tarfile.XHDTYPE),
        # a chain of headers, none of them long
        b"".join(header("x", 10, tarfile.GNUTYPE_LONGNAME) + b"n".ljust(512, b"\0") for _ in range(3000)),
        # a sparse map of 1.0 that ends nowhere
        tar_of(
            (
                "a.png",
                b"99999999\n" + (b"0" * 60 + b"\n") * (2 << 15),
                {"pax_headers": MAP},
            )
        ),
    ],
    ids=["pax", "global", "solaris", "name", "link", "huge", "negative", "chain", "map"],
)
def test_headers_are_bounded(data: bytes) -> None:
    for packed in (data + bytes(4 << 20), gzip.compress(data + bytes(8 << 20), 1)):
        found, why, peak = claims(TAIL[:1024] + packed if packed.startswith(data[:100]) else packed)
        assert why.startswith("the tar file ends or breaks after "), why
        assert len(found) <= 1 and peak < 40 << 20


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (header("a.png", -512), "negative size"),
        (tar_of(("a.png", b"1", {"pax_headers": {"size": "-1"}})), "negative size"),
        (header("a.png", 1000), "unexpected end of data"),
        (b"", "empty file"),
        (b"no tar file" * 100, "invalid header"),
        (TAIL[:1024] + b"damaged" * 100 + TAIL, "invalid header"),
        (TAIL[:1024] + TAIL[:300], "truncated header"),
        (gzip.compress(TAIL)[:-30], "end-of-stream"),
    ],
)
def test_a_damaged_tar_ends_with_a_reason(data: bytes, reason: str) -> None:
    found, why = read(data)
    assert reason in why and all(name != "a.png" for name, _ in found)


def test_links_are_resolved_in_the_tar() -> None:
    data = tar_of(
        link("early.png", "sub/real.png", tarfile.SYMTYPE),
        ("sub/real.png", png(1), {}),
        link("hard.png", "sub/real.png", tarfile.LNKTYPE),
        link("sub/soft.png", "real.png", tarfile.SYMTYPE),
        link("sub/up.png", "../blobs/0a1b", tarfile.SYMTYPE),
        ("blobs/0a1b", png(2), {}),
        link("chain.png", "./sub/soft.png", tarfile.SYMTYPE),
        link("round.png", "trip.png", tarfile.SYMTYPE),
        link("trip.png", "round.png", tarfile.SYMTYPE),
        link("out.png", "/etc/passwd", tarfile.SYMTYPE),
        link("gone.jpg", "gone.png", tarfile.LNKTYPE),
        link("notes", "sub/real.png", tarfile.LNKTYPE),
        ("pipe.png", None, {"type": tarfile.FIFOTYPE}),
        ("folder.png", None, {"type": tarfile.DIRTYPE}),
        ("folder.png/inside.png", png(3), {}),
    )
    for packed in (data, gzip.compress(data)):
        found, why = read(packed)
        assert why == "" and len(found) == 12
        images = dict(found)
        for name in ("early.png", "sub/real.png", "hard.png", "sub/soft.png", "chain.png"):
            assert images[name] == png(1), name
        assert images["sub/up.png"] == png(2) and images["folder.png/inside.png"] == png(3)
        for name, words in {
            "round.png": "is a link to",
            "trip.png": "is a link to",
            "out.png": "is a link to /etc/passwd, which is not a file in this tar file",
            "gone.jpg": "is a link to gone.png, which is not a file in this tar file",
            "pipe.png": "is a device or a pipe",
        }.items():
            assert words in str(images[name]), name


def test_hidden_members_are_left_out() -> None:
    names = ("._1.png", "__MACOSX/._1.png", ".thumbs/1.png", "a/.b/c.png", "./1.png", "a/..b.png", "../2.png")
    found, why = read(tar_of(*((name, png(1), {}) for name in names)))
    assert why == "" and [name for name, _ in found] == ["./1.png", "../2.png"]


def test_a_tar_file_in_a_tar_file_is_a_row_with_a_reason() -> None:
    inner = tar_of(("1.png", png(1), {}))
    found, why = read(tar_of(("inner.tar.GZ", gzip.compress(inner), {}), ("2.png", png(2), {}), ("3.json", b"", {})))
    assert why == "" and [name for name, _ in found] == ["inner.tar.GZ", "2.png"]
    assert found[0][1] == "is a tar file in a tar file, which is not read; unpack the outer one"


def test_names_may_have_line_ends_and_other_bytes() -> None:
    names = ["two\nlines.png", "two\rlines.png", "caf\udce9.png", "名.png"]
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        found, why = read(tar_of(*((name, png(1), {}) for name in names), format=format))
        assert why == "" and [name for name, _ in found] == names


def test_members_are_not_kept_in_memory() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(2000):
            add(archive, f"{number}.json", b"{}")
    data = stream.getvalue()
    del stream, archive
    _, why, peak = claims(data)
    assert why == "" and peak < 1 << 20, peak


@pytest.mark.parametrize("kind", ["plain", "gz"])
def test_damage_anywhere_is_an_error_of_the_part_or_of_nothing(kind: str) -> None:
    chance = random.Random(0)
    good = tar_of(
        ("a.png", png(0), {}), ("n" * 150 + ".png", png(2), {}), link("l.png", "a.png", tarfile.LNKTYPE), GOOD
    )
    whole = gzip.compress(good) if kind == "gz" else good
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.choice((0, 255, chance.randrange(256)))
        read(bytes(data[: chance.choice((len(data), chance.randrange(len(data))))]))
