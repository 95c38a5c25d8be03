"""One member of an archive, block by block."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from captioner.data.download.unpack import BLOCK, write_member


def test_a_member_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(2 * BLOCK + 5)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.bin", content)
    blocks: list[int] = []

    def stop() -> None:
        raise KeyboardInterrupt

    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        target = tmp_path / "deep" / "a.bin"
        with pytest.raises(KeyboardInterrupt):
            write_member(file, file.getinfo("a.bin"), target, stop)
        assert not target.exists()
        write_member(file, file.getinfo("a.bin"), target, lambda: blocks.append(1))
    assert target.read_bytes() == content and len(blocks) == 3
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]
