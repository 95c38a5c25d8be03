from __future__ import annotations

import json
from pathlib import Path

import captioner
from tests.cli.conftest import Run


def test_it_prints_a_table(run: Run, model: Path) -> None:
    code, out, err = run("doctor", "--model", model)
    assert (code, err) == (0, "")
    assert all(part in out for part in ("captioner", captioner.__version__, "torch", "a caption", "no problems"))


def test_a_problem_is_an_error(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--json", "--model", tmp_path)
    found = json.loads(out)
    assert code == 1 and found["healthy"] is False
    (problem,) = (finding for finding in found["findings"] if finding["state"] == "problem")
    assert problem["name"] == "a caption" and str(tmp_path) in problem["found"] and problem["advice"]
