"""An edited file keeps its owner, permissions and times."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from captioner.errors import FileError
from captioner.files import atomic_edit


def test_an_edited_file_keeps_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"old")
    path.chmod(0o604)
    os.utime(path, (1_000_000_000, 1_100_000_000))
    for content, keep_times in ((b"new", True), (b"newer", False)):
        with atomic_edit(path, path.stat(), keep_times=keep_times) as temporary:
            temporary.write_bytes(content)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o604 or os.name == "nt"
        assert (path.stat().st_mtime == 1_100_000_000) is keep_times
    with pytest.raises(KeyError), atomic_edit(path, path.stat(), keep_times=True) as temporary:
        raise KeyError
    seen = path.stat()
    path.write_bytes(b"of another program")
    with (
        pytest.raises(FileError, match="has changed it meanwhile"),
        atomic_edit(path, seen, keep_times=True) as temporary,
    ):
        temporary.write_bytes(b"newest")
    assert path.read_bytes() == b"of another program" and [each.name for each in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(FileError, match="missing"), atomic_edit(tmp_path / "missing", seen, keep_times=True):
        pass
