"""Files are read within bounds, with errors that name them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from captioner.errors import CheckpointError
from captioner.files import read_json, read_text

BROKEN = {
    "missing": (None, "there is no such file"),
    "latin": (b'{"a": "caf\xe9"}', "is not utf-8 text"),
    "cut": (b'{"a": ', "is not JSON"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "digits": (b'{"a": ' + b"9" * 10_000 + b"}", "is not JSON"),
    "null": (b"null", "its JSON is null, not an object"),
    "list": (b"[1]", "its JSON is a list, not an object"),
    "large": (b'{"a": "' + b"a" * 2_000 + b'"}', "has 2,009 bytes, more than the 1,000"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_unusable_json_is_an_error_with_its_file_and_advice(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    path = tmp_path / "value.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        most = 1_000 if name == "large" else None
        read_json(path, dict, error=CheckpointError, advice="copy the model folder again", max_bytes=most)
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and message.endswith("; copy the model folder again")
    assert reason in message


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a regular file"):
        read_text(tmp_path, error=CheckpointError)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(CheckpointError, match="is not a regular file"):
            read_text(tmp_path / "pipe", error=CheckpointError)
    with pytest.raises(CheckpointError, match="cannot be a file's name"):
        read_text("a\0b", error=CheckpointError)


def test_good_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(b"\xef\xbb\xbf[1, 2]")
    assert read_json(path, list, error=CheckpointError, encoding="utf-8-sig") == [1, 2]
