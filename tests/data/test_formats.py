"""The formats that this installation reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import features

from captioner.data import formats


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Inspect the installation again before and after each test."""
    formats.readable_formats.cache_clear()
    yield
    formats.readable_formats.cache_clear()


def test_formats_of_missing_libraries_and_packages_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda codec: codec != "jpg_2000")
    monkeypatch.setattr(features, "modules", {})  # as in releases without AVIF and WebP among them
    monkeypatch.setattr(formats, "find_spec", lambda package: None if package == "rawpy" else object())
    names = formats.readable_formats()
    assert names[:3] == ("JPEG", "PNG", "HEIC") and {"GIF", "TIFF", "JPEG XL", "TGA"} <= set(names)
    assert not {"WebP", "AVIF", "JPEG 2000", "raw photos of cameras"} & set(names)
    lacking = [name for name, found in formats.pillow_formats().items() if not found]
    assert lacking == ["WebP", "AVIF", "JPEG 2000"]
