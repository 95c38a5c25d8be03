"""Cutting a collection into parts: every image in one part, when images are added and when a run ends anywhere."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from captioner.collection.items import images
from captioner.collection.plan import Plan, open_plan
from captioner.errors import BulkError, CaptionerError
from tests.collection.conftest import png


def plan_of(source: Path | str, output: Path, **settings: Any) -> Plan:
    return open_plan(
        str(source),
        output,
        **{"format": "jsonl", "column": None, "size": 2, "model": "tiny", **settings},  # type: ignore[arg-type]
    )


def names(plan: Plan, source: Path) -> list[str]:
    found = [image.name for part in plan.parts for image in images(part, column=plan.column)]
    return [name.removeprefix(f"{source}{os.sep}") for name in found]


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    touch(folder, "b.jpg", "d/1.jpg", "d/3.jpg", "f.jpg", "notes.txt")
    return folder


def test_a_later_run_adds_new_files(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = plan_of(folder, output)
    assert (names(first, folder), first.begun, first.new) == (["b.jpg", "d/1.jpg", "d/3.jpg", "f.jpg"], 0, 4)
    touch(folder, "a.jpg", "d/2.jpg", "d/3.jpg.jpg", "d.jpg", "z/z.png")
    second = plan_of(folder, output)
    assert names(second, folder)[:4] == names(first, folder) and second.parts[:2] == first.parts
    assert names(second, folder)[4:] == ["a.jpg", "d/2.jpg", "d/3.jpg.jpg", "d.jpg", "z/z.png"]
    assert (second.begun, second.new, second.gone) == (2, 5, 0)
    third = plan_of(folder, output)
    assert (third.parts, third.new, third.gone) == (second.parts, 0, 0)
    (folder / "b.jpg").unlink()
    (folder / "z/z.png").unlink()
    touch(folder, "c.jpg")
    fourth = plan_of(folder, output, size=100)
    assert (names(fourth, folder)[9:], fourth.new, fourth.gone) == (["c.jpg"], 1, 2)


def test_new_archives_are_taken_once(collection: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = plan_of(collection, output)
    (collection / "later.tar").write_bytes(b"")
    (collection / "later.PARQUET").write_bytes((collection / "table.parquet").read_bytes())
    second = plan_of(collection, output)
    assert [(part.kind, part.address.rpartition("/")[2]) for part in second.parts[len(first.parts) :]] == [
        ("parquet", "later.PARQUET"),
        ("parquet", "later.PARQUET"),
        ("tar", "later.tar"),
    ]
    assert plan_of(collection, output).parts == second.parts


def test_many_runs_need_few_open_files(folder: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 15, most))
    try:
        for number in range(30):
            touch(folder, f"{number}.png")
            plan = plan_of(folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    assert len(names(plan, folder)) == len(set(names(plan, folder))) == 34


def test_names_of_any_kind_are_kept(tmp_path: Path) -> None:
    odd = ["two\nlines.jpg", "two\rlines.jpg", "caf\udce9.jpg", "'quoted'.jpg", "名.jpg", "=1.jpg", " .jpg"]
    (tmp_path / "odd").mkdir()
    try:
        for name in odd:
            (tmp_path / "odd" / name).write_bytes(png(0))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    plan = plan_of(tmp_path / "odd", tmp_path / "out")
    assert sorted(names(plan, tmp_path / "odd")) == sorted(odd)
    again = plan_of(tmp_path / "odd", tmp_path / "out")
    assert (again.new, again.gone, again.parts) == (0, 0, plan.parts)


def test_linked_folders_are_followed_once(folder: Path, tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.jpg", "2.jpg")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "d" / "up").symlink_to(folder)
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    plan = plan_of(folder, tmp_path / "out")
    assert names(plan, folder) == ["again/1.jpg", "again/2.jpg", "b.jpg", "d/1.jpg", "d/3.jpg", "f.jpg"]


def test_a_folder_that_cannot_be_read_is_reported_and_looked_into_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def refused(folder: Any) -> Any:
        if str(folder).endswith("/d"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refused)
    plan = plan_of(folder, tmp_path / "out")
    assert names(plan, folder) == ["b.jpg", "f.jpg"]
    assert plan.problems == (f"{folder}/d/: cannot look into this folder (Permission denied); check its permissions",)
    with pytest.raises(BulkError, match=r"d/: cannot look into this folder \(Permission denied\)"):
        plan_of(folder / "d", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    monkeypatch.undo()
    plan = plan_of(folder, tmp_path / "out")
    assert (names(plan, folder)[2:], plan.new, plan.problems) == (["d/1.jpg", "d/3.jpg"], 2, ())


def test_a_parquet_file_without_images_is_left_out(collection: Path, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parts = plan_of(collection, tmp_path / "alone").parts
    parquet.write_table(pyarrow.table({"url": ["a"], "status": [1]}), collection / "shard.parquet")
    plan = plan_of(collection, tmp_path / "out")
    assert [part.kind for part in plan.parts] == [part.kind for part in parts]
    assert (plan.described, plan.problems) == (1, ())
    assert plan_of(collection, tmp_path / "out").described == 1
    with pytest.raises(BulkError, match=r"shard\.parquet: has no images, only 1 Parquet files without a column of"):
        plan_of(collection / "shard.parquet", tmp_path / "other")


def test_the_column_that_a_message_requests_is_taken(collection: Path, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    records = [{"bytes": png(1), "path": "a"}]
    parquet.write_table(pyarrow.table({"photo": [png(0)], "image": records}), collection / "two.parquet")
    plan = plan_of(collection, tmp_path / "out")
    assert plan.problems == (
        f"{collection / 'two.parquet'}: has 2 columns of bytes; run again and name one with --column: photo, "
        "image.bytes",
    )
    for column, number in (("photo", 0), ("image", 1), ("image.bytes", 1)):
        output = tmp_path / column
        begun = plan_of(collection, output).parts
        again = plan_of(collection, output, column=column)
        assert again.problems == () and again.parts[: len(begun)] == begun
        (part,) = again.parts[len(begun) :]
        assert [image.data for image in images(part)] == [png(number)]
        assert plan_of(collection, output).parts == again.parts
    with pytest.raises(BulkError, match=r"was begun with another column \(image\)"):
        plan_of(collection, tmp_path / "photo", column="label")


def test_a_damaged_parquet_file_that_is_repaired_is_read_whole(collection: Path, tmp_path: Path) -> None:
    whole = (collection / "table.parquet").read_bytes()
    (collection / "table.parquet").write_bytes(whole[:200])
    plan = plan_of(collection / "table.parquet", tmp_path / "out")
    (collection / "table.parquet").write_bytes(whole)
    assert len([image for part in plan.parts for image in images(part)]) == 3


def test_without_pyarrow_the_others_are_captioned(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        for name in [name for name in sys.modules if name.startswith("pyarrow")]:
            without.setitem(sys.modules, name, None)
        without.setitem(sys.modules, "pyarrow", None)
        plan = plan_of(collection, tmp_path / "out")
        assert {part.kind for part in plan.parts} == {"pictures", "tar"}
        (problem,) = plan.problems
        assert "pip install 'captioner[bulk]'" in problem
        with pytest.raises(BulkError, match="Parquet needs the package pyarrow"):
            plan_of(collection / "table.parquet", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    again = plan_of(collection, tmp_path / "out")
    assert [part.kind for part in again.parts[len(plan.parts) :]] == ["parquet"] * 2 and again.problems == ()


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"), MemoryError()]
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_run_may_be_killed_at_any_write(folder: Path, tmp_path: Path, error: BaseException, begun: bool) -> None:
    output = tmp_path / "out"
    if begun:
        plan_of(folder, output)
        touch(folder, "new.jpg")
    moment = done = 0

    def fails(real: Any) -> Any:
        def call(*arguments: Any, **settings: Any) -> Any:
            nonlocal done
            done += 1
            if done > moment:
                raise error
            return real(*arguments, **settings)

        return call

    while True:
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((os, "replace"), (os, "fsync"), (os, "open"), (json, "dumps")):
                patch.setattr(module, name, fails(getattr(module, name)))
            try:
                plan = plan_of(folder, output)
                break
            except BaseException as raised:
                assert isinstance(raised, CaptionerError if isinstance(error, OSError) else type(error)), raised
        moment, done = moment + 1, 0
    assert moment > 5
    assert sorted(names(plan, folder)) == sorted(
        {"b.jpg", "d/1.jpg", "d/3.jpg", "f.jpg"} | ({"new.jpg"} if begun else set())
    )


def test_files_of_a_killed_run_are_used(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    for name in ("images-00000.jsonl", ".captioner.lock", ".DS_Store"):
        (output / name).write_text("{")
    assert len(names(plan_of(folder, output), folder)) == 4
    assert sorted(os.listdir(output)) == [".DS_Store", "images-00000.jsonl", "plan.json"]


def test_two_runs_cannot_write_one_output(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path / "out")
    with plan.locked(), pytest.raises(BulkError, match="out: another process captions there; wait until"):
        plan_of(folder, tmp_path / "out")
    assert plan_of(folder, tmp_path / "out").parts == plan.parts


def test_the_output_may_lie_in_the_source(folder: Path) -> None:
    first = plan_of(folder, folder / "captions", format="parquet")
    (folder / "captions" / "part-00000.parquet").write_bytes(b"PAR1")
    (folder / "captions" / "figure.png").write_bytes(png(0))
    assert plan_of(folder, folder / "captions", format="parquet").parts == first.parts


def test_the_output_is_left_out_also_behind_links(folder: Path) -> None:
    (folder / "link").symlink_to("captions")
    top = folder.parent / "same"
    top.symlink_to(folder)
    for source in (top, f"{top}/*", f"{top}/**/*"):
        first = plan_of(source, folder / "captions" / "parquet", format="parquet")
        (folder / "captions" / "parquet" / "part-00000.parquet").write_bytes(b"PAR1")
        assert plan_of(source, folder / "captions" / "parquet", format="parquet").parts == first.parts
        for file in (folder / "captions" / "parquet").iterdir():
            file.unlink()


def test_archives_of_other_kinds_are_named(folder: Path, tmp_path: Path) -> None:
    first = plan_of(folder, tmp_path / "out")
    touch(folder, "d/more.7Z", "e.tar.zst", ".hidden.7z")
    second = plan_of(folder, tmp_path / "out")
    assert second.parts == first.parts
    assert (first.unread, second.unread) == ((), (f"{folder}/d/more.7Z", f"{folder}/e.tar.zst"))
    with pytest.raises(BulkError, match=r"more\.7Z: an archive of this kind is not read; unpack it, or make it a tar"):
        plan_of(folder / "d/more.7Z", tmp_path / "alone")


def test_one_folder_may_be_written_in_several_ways(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    first = plan_of("photos", tmp_path / "out")
    for source in ("photos/", "./photos", ".//photos/.", "file://photos"):
        assert plan_of(source, tmp_path / "out").parts == first.parts
    with pytest.raises(BulkError, match="was begun with another source"):
        plan_of("photos/d", tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        "{",
        "[" * 100_000,
        "{}",
        '{"parts": 1, "described": []}',
        '{"parts": [1], "described": []}',
        '{"parts": [{"kind": "disk", "address": "a", "start": 0, "count": 0, "column": []}], "described": []}',
        '{"parts": [{"kind": "tar", "address": 1, "start": 0, "count": 0, "column": []}], "described": []}',
        '{"parts": [{"kind": "tar", "address": "a", "start": -1, "count": 0, "column": []}], "described": []}',
        '{"parts": [{"kind": "tar", "address": "a", "start": 0, "count": 0, "column": [1]}], "described": []}',
        '{"parts": [{"kind": "tar", "address": "a"}], "described": []}',
    ],
)
def test_a_damaged_plan_is_an_error(folder: Path, tmp_path: Path, text: str) -> None:
    plan_of(folder, tmp_path / "out")
    (tmp_path / "out" / "plan.json").write_text(text)
    with pytest.raises(BulkError, match=r"plan\.json: .*give another --output, or delete this folder"):
        plan_of(folder, tmp_path / "out")


@pytest.mark.parametrize("text", [None, "b.jpg", '"b', "[" * 100_000, '"b.jpg"\n"a.jpg"\n'])
def test_a_damaged_list_is_an_error(folder: Path, tmp_path: Path, text: str | None) -> None:
    plan_of(folder, tmp_path / "out")
    path = tmp_path / "out" / "images-00000.jsonl"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(BulkError, match=r"images-00000\.jsonl: "):
        plan_of(folder, tmp_path / "out")


@pytest.mark.parametrize("address", ["memory://hidden", "memory://hidden/*", "memory://hidden/**"])
def test_hidden_files_of_a_bucket_are_left_out(address: str) -> None:
    fsspec = pytest.importorskip("fsspec")
    from captioner.collection.storage import remote_names

    memory = fsspec.filesystem("memory")
    for name in ("a/1.jpg", "a.jpg", "._a.jpg", ".thumbs/1.jpg", "a/.b/2.jpg"):
        memory.pipe(f"/hidden/{name}", b"1")
    assert remote_names(address) == ["memory:///hidden/a/1.jpg", "memory:///hidden/a.jpg"]


def test_an_empty_source_is_not_the_working_folder(tmp_path: Path) -> None:
    with pytest.raises(BulkError, match="the name of the source is empty; give a folder, a file or a pattern"):
        plan_of("", tmp_path / "out")
    assert not (tmp_path / "out").exists()
