"""Fixtures of the tests of exported captioners."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.onnx.builders import write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("photos"))
