"""Collections of a few small images: loose, in tar files and in Parquet files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import model

__all__ = ["model"]  # the tiny one of the command line's tests


def png(number: int) -> bytes:
    """Return an image as PNG."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), (40 * number % 256, 200, 90)).save(stream, "PNG")
    return stream.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar file."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A folder with five loose images, one of them broken, two in a tar file, and three in a Parquet file."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "collection"
    (folder / "deep").mkdir(parents=True)
    for number in range(4):
        (folder / ("deep" if number % 2 else ".") / f"{number}.png").write_bytes(png(number))
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not an image")
    with tarfile.open(folder / "shard.tar.gz", "w:gz") as archive:
        for number in (4, 5):
            add(archive, f"{number}.png", png(number))
            add(archive, f"{number}.json", b"{}")
    rows = [{"bytes": png(6), "path": "6.png"}, {"bytes": png(7), "path": None}, {"bytes": None, "path": "x"}]
    table = pyarrow.table({"label": [1, 2, 3], "image": rows})
    parquet.write_table(table, folder / "table.parquet", row_group_size=2)
    return folder
