"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No test is timed: a busy machine is no bug.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Compiling kernels takes longer than all the rest of the suite; the slow tests compare the compiled ones with the plain ones.
os.environ.setdefault("CAPTIONER_COMPILE", "0")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos with captions; set ``CAPTIONER_DATA`` to point elsewhere."""
    folder = Path(os.environ.get("CAPTIONER_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real photos are not here ({folder}); set CAPTIONER_DATA to their folder to run this test")
    return folder
