"""The mutation tester: which changes it makes, and what becomes of a child that fails or hangs."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

CODE = '''
"""A module; 1 + 1."""
from typing import TypeAlias

Number: TypeAlias = "int | float"
LIMIT: int = 3


@decorated(1)
def clip(x: int, least: int = 0) -> int:
    """Clip to 2."""
    assert x > 1, "x + 1"
    if not x < LIMIT or x == 7:
        raise ValueError(f"{x + 1} is too large")
    logger.info("x", 1 + 1)
    self.calls[x] = min(x, least)
    return pad(x[1:], least, value=Field(5, ge=1))
'''


@pytest.fixture
def mutants(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", repository / "scripts" / "mutants.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutants", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    return module


def test_the_changes_are_those_of_behaviour(mutants: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(CODE)
    made = mutants.Mutator("code.py").mutants
    changes = sorted(str(mutant).split(": ", 1)[1] for mutant in made)
    assert changes == sorted(
        [
            *("3  ->  4", "3  ->  2", "0  ->  1", "0  ->  -1", "7  ->  8", "7  ->  6", "1  ->  2", "1  ->  0"),
            *("1  ->  2", "1  ->  0"),  # of the slice, and of the bound of a setting
            *("not x < LIMIT  ->  (x < LIMIT)", "x < LIMIT  ->  (x <= LIMIT)", "x == 7  ->  (x != 7)"),
            "not x < LIMIT or x == 7  ->  (not x < LIMIT and x == 7)",
            "not x < LIMIT or x == 7  ->  (not (not x < LIMIT or x == 7))",
            'raise ValueError(f"{x + 1} is too large")  ->  pass',
            "self.calls[x] = min(x, least)  ->  pass",
            *("min  ->  max", "1:  ->  :"),
            "pad(x[1:], least, value=Field(5, ge=1))  ->  pad(x[1:], least)",
            "pad(x[1:], least, value=Field(5, ge=1))  ->  pad(least, x[1:], value=Field(5, ge=1))",
        ]
    )
    assert len({mutant.key for mutant in made}) == len(made)
    for mutant in made:
        compile(mutant.source(), "code.py", "exec")
        assert mutant.source() != CODE


def test_a_change_keeps_its_key_when_other_lines_change(mutants: ModuleType, tmp_path: Path) -> None:
    keys = []
    for text in (CODE, CODE.replace("LIMIT: int = 3", "LIMIT: int = 3\nOTHER = 3")):
        (tmp_path / "code.py").write_text(text)
        keys.append({mutant.key for mutant in mutants.Mutator("code.py").mutants})
    assert keys[0] < keys[1] and len(keys[1]) == len(keys[0]) + 2


def test_a_child_gives_back_its_result_and_is_stopped_when_it_hangs(mutants: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert mutants.fork(lambda: [1, 2], 10, log) == [1, 2]
    assert mutants.fork(lambda: 1 / 0, 10, log) == "ZeroDivisionError('division by zero')"
    began = time.monotonic()
    assert mutants.fork(lambda: time.sleep(60), 0.2, log) is None
    assert time.monotonic() - began < 30
