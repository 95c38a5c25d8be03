"""The limits on pixels and reads, at the limit and one beyond it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from captioner.data import streams
from captioner.data.pixel_limit import DEFAULT_MAX_PIXELS, check_declared, check_size, pixel_limit
from captioner.data.streams import CountedBytes, CountedFile
from captioner.errors import ConfigError, ImageError


def test_the_limit_is_the_argument_else_the_environments_else_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPTIONER_MAX_PIXELS", raising=False)
    assert pixel_limit() == DEFAULT_MAX_PIXELS and pixel_limit(1) == 1
    monkeypatch.setenv("CAPTIONER_MAX_PIXELS", "500")
    assert pixel_limit() == 500 and pixel_limit(7) == 7
    with pytest.raises(ConfigError, match="max_pixels: 0 is not"):
        pixel_limit(0)
    for wrong in ("0", "-5", "many"):
        monkeypatch.setenv("CAPTIONER_MAX_PIXELS", wrong)
        with pytest.raises(ConfigError, match=f"CAPTIONER_MAX_PIXELS: '{wrong}' is not"):
            pixel_limit()
    monkeypatch.setenv("CAPTIONER_MAX_PIXELS", "")
    assert pixel_limit() == DEFAULT_MAX_PIXELS


def test_an_image_has_pixels_and_no_more_than_the_limit() -> None:
    for size in ((1, 1), (12, 1), (3, 4), (1, 12)):
        check_size(size, "a.png", 12)
    for size, why in (((0, 5), "no pixels"), ((5, 0), "no pixels"), ((13, 1), "13 pixels"), ((2, 7), "14 pixels")):
        with pytest.raises(ImageError, match=why) as caught:
            check_size(size, "a.png", 12)
        assert caught.value.source == "a.png"


def test_decoding_takes_about_as_many_pixels_as_are_declared() -> None:
    most = 4 * 30 * 20 + 4 * 1024 * 1024
    check_declared(most, (30, 20), "a.tif")
    with pytest.raises(ImageError, match=rf"declares 30 x 20 pixels, but holds {most + 1:,} to decode"):
        check_declared(most + 1, (30, 20), "a.tif")


def test_a_file_is_read_so_many_times_and_once_more_for_every_256_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_READS", 3)
    for size, reads in ((255, 3), (256, 4), (600, 5)):
        content = bytes(range(200)) * 3
        content = content[:size]
        (tmp_path / "a").write_bytes(content)
        for stream in (CountedBytes(content, "a"), CountedFile(str(tmp_path / "a"), "a", size)):
            assert isinstance(stream, io.BufferedIOBase)
            with stream:
                assert b"".join(stream.read(1) for _ in range(reads)) == content[:reads]
                with pytest.raises(ImageError, match="too many tiny parts"):
                    stream.read(1)
        assert CountedBytes(content, "a").read() == content
