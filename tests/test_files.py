"""Files are written completely or not at all, and read within bounds."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner import files
from captioner.errors import CheckpointError, FileError
from captioner.files import atomic_edit, atomic_path, read_json, read_text, write_json, write_text
from tests.disks import largest_file, small_disk

POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions by umask are POSIX's")


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask other than the usual one, for the time of a test."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_text_is_utf_8_wherever_the_program_runs(tmp_path: Path) -> None:
    path = tmp_path / "caption.txt"
    write_text(path, "Ein Hund läuft – 走る犬\n")
    assert path.read_bytes() == "Ein Hund läuft – 走る犬\n".encode()


def test_json_comes_back_and_is_legible(tmp_path: Path) -> None:
    value = {"words": ["café", 'a "quoted" word'], "counts": [3, 1], "none": None, "rate": 0.1}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "café" in text and text.endswith("}\n") and len(text.splitlines()) > 4
    write_json(tmp_path / "value.json", value, indent=None)
    assert len((tmp_path / "value.json").read_text(encoding="utf-8").splitlines()) == 1


def test_an_edited_file_keeps_what_is_around_its_content(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"old")
    path.chmod(0o604)
    os.utime(path, (1_000_000_000, 1_100_000_000))
    for content, keep_times in ((b"new", True), (b"newer", False)):
        with atomic_edit(path, path.stat(), keep_times=keep_times) as temporary:
            temporary.write_bytes(content)
        assert path.read_bytes() == content
        assert permissions(path) == 0o604 or os.name == "nt"
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


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(str(tmp_path / "a" / "b" / "c.txt"), "here")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "here"


def test_nothing_is_at_the_path_before_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.stat().st_dev == tmp_path.stat().st_dev, "a rename between file systems is not atomic"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [b"old", None])
def test_an_interrupted_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, error: type[BaseException], old: bytes | None
) -> None:
    path = tmp_path / "model.bin"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise error
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({} if old is None else {"model.bin": old})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [object()])
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "a lone surrogate: \ud800")
    assert os.listdir(tmp_path) == ["value.json"] and json.loads(path.read_text()) == [1]


def test_a_folder_in_the_way_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / "model", "text")
    assert os.listdir(tmp_path) == ["model"] and (tmp_path / "model").is_dir()


def test_a_removed_temporary_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "model.bin") as temporary:
        temporary.unlink()
    assert not os.listdir(tmp_path)


def test_a_temporary_file_may_be_replaced(tmp_path: Path) -> None:
    """Some libraries save in this way."""
    with atomic_path(tmp_path / "model.bin") as temporary:
        (tmp_path / "other").write_bytes(b"new")
        os.replace(tmp_path / "other", temporary)
    assert (tmp_path / "model.bin").read_bytes() == b"new"


@POSIX
@pytest.mark.parametrize("existing", [True, False])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int, existing: bool) -> None:
    path = tmp_path / "shared.json"
    if existing:
        path.write_text("{}")
        path.chmod(0o600)
    write_json(path, {})
    assert permissions(path) == 0o666 & ~umask
    assert os.umask(umask) == umask, "the process's umask must be what it was"


@POSIX
def test_other_threads_files_keep_their_permissions(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.umask
    seen: list[int] = []

    def while_another_thread_writes(mask: int) -> int:
        before = plain(mask)
        other = tmp_path / f"other{len(seen)}"
        other.touch()
        seen.append(permissions(other))
        return before

    monkeypatch.setattr(os, "umask", while_another_thread_writes)
    write_text(tmp_path / "file", "text")
    monkeypatch.undo()
    assert permissions(tmp_path / "file") == 0o640
    assert set(seen) <= {0o640}


WRITER = """
import sys
from captioner.files import write_text
for _ in range(40):
    write_text(sys.argv[1], sys.argv[2] * 200_000)
"""


def test_a_reader_never_sees_half_a_file_of_two_writers(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "model.bin"
    write_text(path, "c" * 200_000)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], cwd=repository) for letter in "ab"]
    try:
        while any(writer.poll() is None for writer in writers):
            text = path.read_text()
            assert len(text) == 200_000 and len(set(text)) == 1
        assert [writer.returncode for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert path.read_text()[0] in "ab"
    assert os.listdir(tmp_path) == ["model.bin"]


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
    """As a library with errors of its own does."""
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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a" * 300 + ".json", r"its name is too long for the file system \(305 bytes\); give a shorter one"),
        ("new/" + "ä" * 150 + "/captions.json", r"its name is too long for the file system \(300 bytes\)"),
        ("/".join(["new"] * 2000), "its name is too long"),
        ("a\0b", "embedded null"),  # byte, or from Python 3.13 on character
        ("file/captions.json", "file is a file, not a folder"),
        ("pipe", "is a device or a pipe"),
    ],
)
def test_an_impossible_place_is_refused_before_the_work(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match=reason):
        files.check_place(tmp_path / name)
    with pytest.raises(FileError, match=reason):
        write_text(tmp_path / name, "text")
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


@pytest.mark.parametrize("name", ["a" * 255, "-", "new/folder/captions.json", "ends with a dot.", "ü" * 127, "\udcff"])
def test_a_possible_place_is_accepted_and_stays_empty(tmp_path: Path, name: str) -> None:
    files.check_place(tmp_path / name)
    assert not os.listdir(tmp_path)
    write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"


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
    monkeypatch.setattr(files.atomic, "_cleared", set())
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
    files.atomic._cleared.clear()  # as in a new process
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
        monkeypatch.setattr(files.atomic, "_cleared", set())
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
def test_unusable_json_is_an_error_with_its_file_and_a_cure(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    path = tmp_path / "value.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        most = 1_000 if name == "large" else None
        read_json(path, dict, error=CheckpointError, cure="copy the model folder again", most=most)
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
