"""Files are written completely or not at all."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner import files
from captioner.errors import FileError
from captioner.files import atomic_path, write_json, write_text

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


def test_a_name_that_is_not_utf_8_is_escaped_and_comes_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    write_json(tmp_path / "value.json", {"ids": [name, "café"]})
    assert json.loads((tmp_path / "value.json").read_bytes()) == {"ids": [name, "café"]}
    write_text(tmp_path / "table.md", f"{name}: missing")
    assert (tmp_path / "table.md").read_text() == r"caf\udce9.jpg: missing"


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


@pytest.mark.parametrize(
    ("name", "reason"), [("file", "file: is a file, not a folder"), ("file/x", "x: file is a file")]
)
def test_a_file_cannot_be_locked_as_a_folder(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=reason), files.only_one(tmp_path / name, error=FileError, work="trains"):
        pass
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["a" * 255, "-", "new/folder/captions.json", "ends with a dot.", "ü" * 127, "\udcff"])
def test_a_possible_place_is_accepted_and_stays_empty(tmp_path: Path, name: str) -> None:
    files.check_place(tmp_path / name)
    assert not os.listdir(tmp_path)
    write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"


def test_a_folder_is_replaced_but_for_what_others_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref")
    (folder / "link").symlink_to("nowhere")
    for name in ("config", "old"):
        (folder / name).write_text("old")
    with files.atomic_folder(folder, ours=["config", "old"]) as temporary:
        (temporary / "config").write_text("new")
    assert sorted(os.listdir(folder)) == [".git", "config", "link"] and os.listdir(tmp_path) == ["model"]
    assert (folder / "config").read_text() == "new" and (folder / ".git" / "HEAD").read_text() == "ref"
    assert os.readlink(folder / "link") == "nowhere"


def test_a_folder_is_written_where_its_link_leads(tmp_path: Path) -> None:
    for name, target in (("there", tmp_path / "disk" / "there"), ("dangling", tmp_path / "disk" / "new")):
        target.mkdir(parents=True) if name == "there" else None
        (tmp_path / name).symlink_to(target)
        with files.atomic_folder(tmp_path / name) as temporary:
            (temporary / "file").write_text(name)
        assert (tmp_path / name).is_symlink() and (target / "file").read_text() == name


def test_the_working_folder_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    for folder in (".", "..", tmp_path, "/"):
        with pytest.raises(FileError, match="cannot be replaced while the program works in it"):
            files.check_folder_place(folder)
    files.check_folder_place("b")
