"""Files that are missing, of special kinds or without permission, each with one clear error."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from captioner.data.images import digest
from captioner.errors import ImageError
from tests.data.images import encode, refusal, scene


def test_missing_files_folders_and_odd_names(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "gone.jpg").reason
    assert "folder" in refusal(tmp_path).reason
    assert "web address" in refusal("https://example.org/a.jpg").reason
    assert "cannot be opened" in refusal("a" * 5000).reason
    assert "cannot be opened" in refusal("a\0b.jpg").reason
    file = tmp_path / "file.txt"
    file.write_text("x")
    assert "cannot be opened" in refusal(file / "a.jpg").reason
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    assert "link" in refusal(tmp_path / "broken.jpg").reason
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert "cannot be opened" in refusal(tmp_path / "loop.jpg").reason


def test_special_files_do_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert "pipe" in refusal(pipe).reason
    with pytest.raises(ImageError, match="pipe"):
        digest(pipe)
    assert "device" in refusal("/dev/zero").reason
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's name must be short
        try:
            server.bind("s.jpg")
        finally:
            os.chdir(here)
        assert "socket" in refusal(tmp_path / "s.jpg").reason


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "private.png"
    path.write_bytes(encode(scene(), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert "permission" in refusal(path).reason


def test_a_permission_error_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "private.png"
    path.write_bytes(encode(scene(), "PNG"))

    def deny(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    assert "permission" in refusal(path).reason
