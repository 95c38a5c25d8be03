"""Fixtures of the tests of metadata."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.metadata.samples import sample


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a photo without captions."""
    return sample("baseline.jpg", tmp_path).rename(tmp_path / "photo.jpg")
