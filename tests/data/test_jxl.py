"""JPEG XL, written by the plugin."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.data.images import check_file, load_image
from captioner.data.jxl import jxl_size
from captioner.errors import ImageError


def jxl(width: int, height: int, **options: Any) -> bytes:
    pytest.importorskip("pillow_jxl", reason="the plugin is not installed; pip install 'captioner[jxl]'")
    stream = io.BytesIO()
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    image.save(stream, "JXL", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "size",
    [(1, 1), (8, 8), (256, 256), (64, 48), (640, 480), (1920, 1080), (333, 77), (4000, 20), (160, 200), (513, 1)],
)
@pytest.mark.parametrize("container", [False, True])
def test_the_size_is_in_the_header(size: tuple[int, int], container: bool) -> None:
    data = jxl(*size, **({"use_container": True} if container else {}))
    assert jxl_size(data) == size == check_file(data)


def test_an_image_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jxl").write_bytes(jxl(64, 48, lossless=True))
    expected = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    assert np.abs(np.array(load_image(tmp_path / "a.jxl")).astype(int) - np.array(expected)).max() <= 1
    with pytest.raises(ImageError, match="3,072 pixels"):
        load_image(tmp_path / "a.jxl", max_pixels=1000)


@pytest.mark.parametrize("size", [2, 5, 40, 100])
def test_a_damaged_one_is_an_error(size: int) -> None:
    with pytest.raises(ImageError, match=r"JPEG XL|empty"):
        load_image(jxl(64, 48)[:size])


def test_without_the_plugin_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "pillow_jxl", missing)
    with pytest.raises(ImageError, match=r"JPEG XL needs a plugin; run: pip install 'captioner\[jxl\]', or convert it"):
        load_image(b"\xff\x0a" + bytes(40))
