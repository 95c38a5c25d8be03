"""Names of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from captioner.errors import CheckpointError
from captioner.store import names


@pytest.mark.parametrize(
    ("folder", "name"), [("runs/mine/best", "mine"), ("runs/mine/last", "mine"), ("small", "small"), ("best", "best")]
)
def test_a_run_gives_its_model_the_name(folder: str, name: str) -> None:
    assert names.name_of(Path(folder)) == name


def test_an_empty_name_is_not_the_working_folder() -> None:
    with pytest.raises(CheckpointError, match="the name of a model is empty; give one"):
        names.locate("")
