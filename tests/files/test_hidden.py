"""Leftovers of killed and interrupted processes are removed; files in use and files of people are kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from captioner import files
from captioner.errors import CheckpointError
from captioner.files import write_text

POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions by umask are POSIX's")


HOLD = """
import sys, time
from pathlib import Path
from captioner import files
folder = Path(sys.argv[1])
with files.only_one(folder, error=ValueError, work="writes"), files.atomic_path(folder / "model.bin") as path:
    path.write_bytes(b"half")
    with files.atomic_folder(folder / "model") as model:
        (model / "weights").write_bytes(b"half")
        if sys.argv[2] == "replacing":
            place = model.parents[1] / "old"
            place.mkdir()
            (folder / "model").rename(place / "model")
        print("ready", flush=True)
        time.sleep(60)
"""


def leftovers(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != "model.bin" and name != "model")


@POSIX
@pytest.mark.parametrize("moment", ["writing", "replacing"])
def test_the_next_writer_removes_leftovers_of_a_kill_but_no_files_in_use(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(files.hidden, "_cleared", set())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"old")
    persons = {".captioner-notes.tmp", ".0123456789abcdef.tmp", ".captioner-0123456789abcdeg.tmp"}
    for name in persons:
        (tmp_path / name).mkdir()
    (tmp_path / ".captioner-0123456789abcdef.tmp").write_text("a file, and not a folder")
    persons.add(".captioner-0123456789abcdef.tmp")
    command = [sys.executable, "-c", HOLD, str(tmp_path), moment]
    writer = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        during = leftovers(tmp_path)
        assert len(during) == len(persons) + 3
        refused = pytest.raises(CheckpointError, match="another process writes there")
        with refused, files.only_one(tmp_path, error=CheckpointError, work="writes"):
            pass
        write_text(tmp_path / "other", "text")
        (tmp_path / "other").unlink()
        assert leftovers(tmp_path) == during, "a living process lost its files"
    finally:
        writer.kill()
        writer.communicate()
    files.hidden._cleared.clear()  # as in a new process
    with files.only_one(tmp_path, error=CheckpointError, work="writes"):
        files.check_place(tmp_path / "other")
    assert set(leftovers(tmp_path)) == persons
    assert (tmp_path / "model" / "weights").read_bytes() == b"old", "the model was lost"


KILLED = """
import sys
from pathlib import Path
from captioner import files
for number in range(1000):
    with files.atomic_folder(Path(sys.argv[1]) / "model") as model:
        for name in "abc":
            files.write_text(model / name, f"{number}" * 10_000)
    files.write_text(Path(sys.argv[1]) / "state", f"{number}" * 10_000)
"""


@POSIX
@pytest.mark.slow
def test_no_kill_at_any_moment_loses_a_file_or_leaves_one(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    lost = 0
    for _ in range(30):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=repository)
        deadline = time.monotonic() + 60
        while not (tmp_path / "state").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(float(random.uniform(0.2, 0.7)))
        writer.kill()
        writer.wait()
        lost += not (tmp_path / "model").exists()
        monkeypatch.setattr(files.hidden, "_cleared", set())
        files.check_place(tmp_path / "new")
        assert sorted(os.listdir(tmp_path)) == ["model", "state"]
        texts = [(tmp_path / "model" / name).read_text() for name in "abc"]
        assert len(set(texts)) == 1 and texts[0] and len(set(re.findall(r"\d+", texts[0]))) == 1
        assert sorted(os.listdir(tmp_path / "model")) == ["a", "b", "c"]
    assert lost < 30


def test_interrupted_replacing_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"old")
    rename = Path.rename

    def interrupt(self: Path, target: Path) -> Path:
        if self.name == "model" and self.parent.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").write_bytes(b"new")
    assert os.listdir(tmp_path) == ["model"] and (tmp_path / "model" / "weights").read_bytes() == b"old"
