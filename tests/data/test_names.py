"""Lists of names, and names that are addresses."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest

from captioner.data.images import check_file, load_image
from captioner.data.names import read_list
from captioner.errors import CaptionerError, ImageError


@pytest.fixture(autouse=True)
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files of odd names."""
    for name in ("a.jpg", "b c.jpg", " blank .jpg ", '"quoted.jpg"', "line\nend.jpg", "caf\u00e9.jpg", "-", "cr.jpg\r"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def names(text: bytes) -> list[str]:
    return list(read_list(io.BytesIO(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\nb c.jpg", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\r\nb c.jpg\r\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\rb c.jpg\r", ["a.jpg", "b c.jpg"]),
        (b"\xef\xbb\xbfa.jpg\n", ["a.jpg"]),
        ("\ufeffa.jpg\r\ncaf\u00e9.jpg\r\n".encode("utf-16-le"), ["a.jpg", "caf\u00e9.jpg"]),
        ("\ufeffa.jpg\r\ncaf\u00e9.jpg\r\n".encode("utf-16-be"), ["a.jpg", "caf\u00e9.jpg"]),
        (b"a.jpg\0line\nend.jpg\0", ["a.jpg", "line\nend.jpg"]),
        (b"line\nend.jpg\0a.jpg", ["line\nend.jpg", "a.jpg"]),
        (b"\"a.jpg\"\n'b c.jpg'\n  a.jpg\t\n", ["a.jpg", "b c.jpg", "a.jpg"]),
        (b'"a.jpg"\r\n', ["a.jpg"]),
        (b'"quoted.jpg"\n blank .jpg \ncr.jpg\r\n', ['"quoted.jpg"', " blank .jpg ", "cr.jpg\r"]),
        (b"\n\r\n  \na.jpg\n\n", ["a.jpg"]),
        (b"-\n", ["-"]),
        (b"it's\nnone.jpg\n'\n", ["it's", "none.jpg", "'"]),
        (b"gone\xff.jpg\n", ["gone\udcff.jpg"]),
        (b"https://x.org/a.jpg\n", ["https://x.org/a.jpg"]),
        (b"# a.jpg\n", ["# a.jpg"]),
        (b"", []),
    ],
)
def test_lists_of_names_are_read(text: bytes, expected: list[str]) -> None:
    assert names(text) == expected


def test_a_tilde_is_the_home_folder(album: Path) -> None:
    assert names(b"~/a.jpg\n'~/b c.jpg'\n~/none.jpg\n") == [
        str(album / name) for name in ("a.jpg", "b c.jpg", "none.jpg")
    ]
    (album / "~").mkdir()
    (album / "~" / "a.jpg").touch()
    assert names(b"~/a.jpg\n") == ["~/a.jpg"]


def test_names_are_yielded_while_the_list_is_written() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stream, open(writing, "wb", buffering=0) as list_:
        found = read_list(stream)
        for part, name in ((b"a.j", None), (b"pg\nb ", "a.jpg"), (b"c.jpg\n", "b c.jpg")):
            list_.write(part)
            assert name is None or next(found) == name


def test_a_letter_may_arrive_in_two_parts() -> None:
    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return self.read(1)

    assert list(read_list(Slow("a.jpg\ncaf\u00e9.jpg\r\n".encode()))) == ["a.jpg", "caf\u00e9.jpg"]


def test_long_lists_are_read_fast() -> None:
    given = [f"folder/{number:06}.jpg" for number in range(50_000)]
    began = time.perf_counter()
    assert names("\n".join(given).encode()) == given
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF"])
def test_an_image_is_read_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    stream = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(stream, kind)
    assert list(read_list(io.BytesIO(stream.getvalue()))) == [stream.getvalue()]
    monkeypatch.setattr("captioner.data.names.MAX_IMAGE_BYTES", 100)
    with pytest.raises(CaptionerError, match="the image has more than 100 bytes; give it as a file"):
        names(stream.getvalue())


@pytest.mark.parametrize(
    "text", [b"%PDF-1.7\n", b"PK\x03\x04abc", bytes(5000), b"x" * 200_000, b"a\n" + b"x" * 200_000]
)
def test_other_files_are_refused_as_lists(text: bytes) -> None:
    with pytest.raises(CaptionerError, match=r"neither a list of names nor an image|not a list of names"):
        names(text)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("https://x.org/a.jpg", "this is a web address; download the image first"),
        ("HTTP://x.org/a.jpg?b=[1]", "this is a web address"),
        ("ftp://x.org/a.jpg", "this is a web address"),
        ("file:///home/me/my%20photo.jpg", "give its path: /home/me/my photo.jpg"),
        ("s3://bucket/a.jpg", "this is an address (s3), not a file"),
        ("gs://bucket/a.jpg", "this is an address (gs), not a file"),
        ("data:image/png;base64,iVBORw0KGgo=", "save it as a file first"),
        ("C:\\Users\\me\\a.jpg", "path of Windows"),
        ("\\\\server\\photos\\a.jpg", "path of Windows"),
        ("photos\\a.jpg", "path of Windows"),
    ],
)
def test_an_address_is_named_and_explained(name: str, reason: str) -> None:
    for read in (load_image, check_file):
        with pytest.raises(ImageError) as caught:
            read(name)
        assert caught.value.source == name and reason in caught.value.reason


def test_an_image_written_as_an_address_does_not_flood_the_message() -> None:
    with pytest.raises(ImageError) as caught:
        load_image("data:image/jpeg;base64," + "A" * 100_000)
    assert len(str(caught.value)) < 200 and "save it as a file" in str(caught.value)


@pytest.mark.parametrize("name", ["https:x.jpg", "a:b.jpg", "12:30.jpg", "data.jpg", "back\\slash.jpg"])
def test_a_file_whose_name_looks_like_an_address_is_read(name: str, album: Path) -> None:
    from PIL import Image

    Image.new("RGB", (2, 2)).save(album / name, "PNG")
    assert load_image(name).size == (2, 2)
    with pytest.raises(ImageError, match="there is no such file"):
        load_image(f"no{name}")
