"""Errors of the disk: full, read-only, or with a limit on the size of files."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner import files
from captioner.errors import CheckpointError, FileError
from captioner.files import atomic_path, write_text
from tests.disks import largest_file, small_disk


def with_json(path: Path) -> None:
    with open(path, "w") as file:
        json.dump(["a" * 4_000_000], file)


def with_numpy(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(500_000))


def with_safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(500_000)}, path)


def with_arrow(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table({"a": np.random.default_rng(0).random(500_000)}), path)


def with_onnx(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    weights = onnx.numpy_helper.from_array(np.zeros(500_000), "w")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [weights])), path)


def with_wrapped_errors(path: Path) -> None:
    """As a library with its own error classes does."""
    try:
        path.write_bytes(bytes(4_000_000))
    except OSError as error:
        raise RuntimeError("failed to serialise") from error


def with_hidden_errors(path: Path) -> None:
    with suppress(OSError):
        path.write_bytes(bytes(4_000_000))
    raise RuntimeError("failed to serialise")


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(bytes(4_000_000)),
    "json": with_json,
    "Pillow": lambda path: Image.effect_noise((2000, 2000), 100).save(path, format="PNG"),
    "numpy": with_numpy,
    "safetensors": with_safetensors,
    "pyarrow": with_arrow,
    "onnx": with_onnx,
    "wrapped": with_wrapped_errors,
    "hidden": with_hidden_errors,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_error_with_the_file_and_the_space(tmp_path: Path, writer: str) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        path = disk / "model.bin"
        path.write_bytes(b"old" * 100_000)
        with pytest.raises(FileError) as raised, atomic_path(path) as temporary:
            WRITERS[writer](temporary)
        assert re.fullmatch(
            rf"{re.escape(str(path))}: cannot be written, the disk is full: (\d\.\d) MB or more are needed and 0\.7 MB "
            "are free; free some space, or give another place",
            str(raised.value),
        ), raised.value
        assert os.listdir(disk) == ["model.bin"] and path.read_bytes() == b"old" * 100_000
        if writer != "hidden":
            full = pytest.raises(FileError, match="folder: cannot be written, the disk is full")
            with full, files.atomic_folder(disk / "folder") as folder:
                (folder / "first").write_bytes(bytes(1000))
                WRITERS[writer](folder / "second")
            assert os.listdir(disk) == ["model.bin"]


def test_a_read_only_disk_is_not_blamed_on_permissions(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(FileError, match=r"a\.csv: cannot be written, the disk is read-only; give another place"):
            files.check_place(disk / "folder" / "a.csv")


def test_a_disk_without_a_free_byte_is_named_without_sums(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        with suppress(OSError), open(disk / "fill", "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        message = r"plan\.json: cannot be written, the disk is full: nothing is free; free some space"
        with pytest.raises(FileError, match=message), atomic_path(disk / "plan.json") as temporary:
            temporary.write_text("{}")


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_above_the_size_limit_is_an_error_with_its_name(tmp_path: Path, writer: str) -> None:
    refused = pytest.raises(FileError, match=r"model\.bin: cannot be written, it is larger than files may be there")
    with largest_file(100_000), refused, atomic_path(tmp_path / "model.bin") as temporary:
        WRITERS[writer](temporary)
    assert not os.listdir(tmp_path)


def test_a_disk_without_room_for_a_folder_is_an_error(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        with suppress(OSError):
            (disk / "full").write_bytes(bytes(1_000_000))
        with pytest.raises(FileError, match="cannot be written, the disk is full"):
            write_text(disk / "a" / "b.txt", "text")
        full = pytest.raises(FileError, match="the disk is full")
        with full, files.writing(disk / "log"), open(disk / "log", "w") as file:
            file.write("a" * 100_000)


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    for error in (ValueError("no"), CheckpointError("x: no"), OSError(errno.ENOENT, "no", "other")):
        with pytest.raises(type(error)) as raised, atomic_path(tmp_path / "file"):
            raise error
        assert raised.value is error
    with pytest.raises(FileError, match=r"^/elsewhere/cache: cannot be written, the disk is full"):  # noqa: SIM117
        with atomic_path(tmp_path / "file"):
            raise OSError(errno.ENOSPC, "No space left on device", "/elsewhere/cache")


def test_the_bytes_of_a_folder_while_another_process_removes_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kept", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"abc")
    scan = os.scandir

    def remove_first(folder: Path | str) -> object:
        if Path(folder).name == "gone":
            (Path(folder) / "file").unlink()
            Path(folder).rmdir()
        return scan(folder)

    monkeypatch.setattr("os.scandir", remove_first)
    assert files.bytes_in(tmp_path) == 3
