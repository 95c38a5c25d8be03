"""Bulk captioning: every image once, from every source and through every fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from captioner import Captioner
from captioner.collection.plan import Plan, open_plan
from captioner.collection.run import Bulk, BulkReport, bulk
from captioner.data.rows import FIELDS
from captioner.errors import BulkError, FileError
from tests.collection.conftest import add, png

SETTINGS: dict[str, Any] = {"format": "jsonl", "column": None, "size": 2}


def plan_of(source: Path | str, output: Path, model: Path, **settings: Any) -> Plan:
    return open_plan(str(source), output, model=str(model), **{**SETTINGS, **settings})


def caption(plan: Plan, model: Path) -> BulkReport:
    return bulk(plan, lambda: Bulk(plan, str(model), batch_size=2, device="cpu"))


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for part in sorted(output.glob("part-*.jsonl")) for line in part.read_text().splitlines()]


def expected(folder: Path) -> list[str]:
    return [
        *(str(folder / name) for name in ("0.png", "2.png", "broken.jpg", "deep/1.png", "deep/3.png")),
        *(f"{folder / 'shard.tar.gz'}:{number}.png" for number in (4, 5)),
        *(f"{folder / 'table.parquet'}:{row}" for row in range(3)),
    ]


def test_every_image_has_a_row_in_the_order_of_the_source(collection: Path, model: Path, tmp_path: Path) -> None:
    plan = plan_of(collection, tmp_path / "out", model)
    assert [part.kind for part in plan.parts] == ["pictures"] * 3 + ["tar", "parquet", "parquet"]
    report = caption(plan, model)
    found = rows(tmp_path / "out")
    assert [row["image"] for row in found] == expected(collection)
    assert (report.parts, report.images, report.failed) == (6, 8, 2)
    captioner = Captioner.from_pretrained(model, device="cpu")
    for row, number in zip([row for row in found if not row["error"]], (0, 2, 1, 3, 4, 5, 6, 7), strict=True):
        alone = captioner(png(number))
        assert (row["caption"], row["model"]) == (alone.text, str(model))
        assert row["log_probability"] == pytest.approx(alone.log_probability, abs=1e-4)
    errors = {row["image"]: row["error"] for row in found if row["error"]}
    assert list(errors) == [str(collection / "broken.jpg"), f"{collection / 'table.parquet'}:2"]
    assert errors[f"{collection / 'table.parquet'}:2"] == "has no bytes"
    assert report.errors == [f"{image}: {reason}" for image, reason in errors.items()]
    assert all(row["caption"] is None for row in found if row["error"])


def test_parquet_has_the_same_rows(collection: Path, model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for format in ("jsonl", "parquet"):
        caption(plan_of(collection, tmp_path / format, model, format=format), model)
    parts = sorted((tmp_path / "parquet").glob("part-*.parquet"))
    short = [{name: row[name] for name in FIELDS} for row in rows(tmp_path / "jsonl")]
    assert [row for part in parts for row in parquet.read_table(part).to_pylist()] == short


def test_finished_parts_are_not_captioned_again(collection: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    caption(plan_of(collection, output, model), model)
    before = rows(output)
    (output / "part-00001.jsonl").unlink()
    times = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert caption(plan_of(collection, output, model), model).parts == 1
    assert rows(output) == before
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())

    def never() -> Bulk:
        raise AssertionError("the model was loaded")

    assert bulk(plan_of(collection, output, model), never) == BulkReport()


def test_few_bytes_are_held_for_captioning(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for number in range(30):
            add(archive, f"{number}.png", png(number) + bytes(10_000 if number in (7, 8, 20) else 0))
    plan = plan_of(tmp_path / "shard.tar", tmp_path / "out", model)
    caption(plan, model)
    before = rows(tmp_path / "out")
    plan.file(0).unlink()
    streams: list[int] = []
    stream = Captioner.stream

    def counted(self: Captioner, images: Any, **settings: Any) -> Any:
        images = list(images)
        streams.append(sum(map(len, images)))
        return stream(self, images, **settings)

    monkeypatch.setattr(Captioner, "stream", counted)
    monkeypatch.setattr("captioner.collection.captioned.MAX_IMAGE_BYTES", 1000)
    caption(plan, model)
    assert rows(tmp_path / "out") == before and len(before) == 30
    assert sorted(streams)[-3:] == [len(png(number)) + 10_000 for number in (7, 8, 20)]
    assert sorted(streams)[-4] <= 1000 and len(streams) < 15


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_truncated_tar_keeps_its_good_images(model: Path, tmp_path: Path, ending: str) -> None:
    whole = tmp_path / "whole"
    with tarfile.open(whole, "w:gz" if ending == "tar.gz" else "w") as archive:
        add(archive, "0.png", png(0))
        add(archive, "1.png", png(1) + os.urandom(200_000))
    shard = tmp_path / f"shard.{ending}"
    shard.write_bytes(whole.read_bytes()[:100_000])
    report = caption(plan_of(shard, tmp_path / "out", model), model)
    first, broken = rows(tmp_path / "out")
    assert first["image"] == f"{shard}:0.png" and first["caption"]
    assert broken["image"] == str(shard) and "breaks after 1 images" in broken["error"]
    assert f"delete {tmp_path / 'out' / 'part-00000.jsonl'} and run again" in broken["error"]
    assert (report.images, report.failed) == (1, 1)


def test_a_damaged_parquet_file_is_one_error(collection: Path, model: Path, tmp_path: Path) -> None:
    (collection / "bad.parquet").write_bytes(b"PAR1 and nothing else")
    caption(plan_of(collection, tmp_path / "out", model), model)
    errors = {row["image"]: row["error"] for row in rows(tmp_path / "out")}
    assert errors[str(collection / "bad.parquet")].startswith("not a Parquet file, or damaged")
    assert sum(error is None for error in errors.values()) == 8


def test_an_output_of_something_else_is_refused(collection: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    plan_of(collection, output, model)
    with pytest.raises(BulkError, match="was begun with another model"):
        plan_of(collection, output, Path("other"))
    with pytest.raises(BulkError, match="was begun with another source"):
        plan_of(collection / "deep", output, model)
    with pytest.raises(BulkError, match="is not empty, and not an output of this command"):
        plan_of(collection, collection / "deep", model)
    (output / "plan.json").write_text("{")
    with pytest.raises(BulkError, match=r"plan\.json: is not JSON"):
        plan_of(collection, output, model)
    with pytest.raises(BulkError, match="has no images, tar files or Parquet files"):
        (tmp_path / "empty").mkdir()
        plan_of(tmp_path / "empty", tmp_path / "other", model)


def test_a_full_disk_is_named_and_nothing_is_half_written(
    collection: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(collection, tmp_path / "out", model)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"part-00000\.jsonl: cannot be written, the disk is full: .* free some space"):
        caption(plan, model)
    assert sorted(path.name for path in plan.folder.iterdir()) == ["images-00000.jsonl", "plan.json"]


def test_urls_are_read_as_files_are(collection: Path, model: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(collection), "/collection", recursive=True)
    caption(plan_of("memory://collection", tmp_path / "remote", model), model)
    caption(plan_of(collection, tmp_path / "local", model), model)
    local = {row["image"].removeprefix(str(collection)): row for row in rows(tmp_path / "local")}
    remote = {row["image"].removeprefix("memory:///collection"): row for row in rows(tmp_path / "remote")}
    assert remote.keys() == local.keys()
    assert all(remote[name]["caption"] == row["caption"] for name, row in local.items())


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_and_repeats_nothing(collection: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    source = tmp_path / "many"
    source.mkdir()
    for number in range(400):
        (source / f"{number:03d}.png").write_bytes(png(number))
    output = tmp_path / "out"
    command = [sys.executable, "-m", "captioner", "bulk", source, "-o", output, "--model", model, "--ray"]
    process = subprocess.Popen(
        [*map(str, command), "--workers", "2", "--part-size", "2", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_worker_niceness": "0"},  # at a lower priority than other tests they would get no time
    )
    while len(list(output.glob("part-*"))) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    workers = subprocess.run(["pgrep", "-f", "ray::MapWorker"], capture_output=True, text=True).stdout
    os.kill(int(workers.split()[0]), signal.SIGKILL)
    assert len(list(output.glob("part-*"))) < 200, "it ended before a worker could be killed"
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert [row["image"] for row in rows(output)] == [str(source / f"{number:03d}.png") for number in range(400)]
    assert all(row["caption"] for row in rows(output))
