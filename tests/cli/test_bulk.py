from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from captioner.data.rows import FIELDS
from tests.collection.conftest import add, png


@pytest.fixture
def bulk(run, model: Path):
    return lambda *arguments: run("bulk", "--model", model, "--device", "cpu", *arguments)


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for part in sorted(output.glob("part-*.jsonl")) for line in part.read_text().splitlines()]


def test_a_second_run_captions_new_images_and_reports_missing_ones(bulk, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "captions"
    (images / "broken.jpg").unlink()
    first = bulk(images, "-o", output)
    assert (first.code, first.after, first.out) == (0, "", f"{output}: 1 parts; 4 images captioned\n")
    assert bulk(images, "-o", output).out == f"{output}: 1 parts; none was left\n"
    for name in ("0.png", "more/1.png", "z.png"):
        (images / name).write_bytes(png(1))
    (images / "blue.jpg").unlink()
    second = bulk(images, "-o", output)
    assert (second.code, second.out) == (0, f"{output}: 2 parts; 3 new; 3 images captioned\n")
    assert second.after == "1 images are not in the source any more; their rows stay\n"
    names = [row["image"] for row in rows(output)]
    assert names == [str(images / name) for name in ("blue.jpg", "green.png", "more/deep.jpg", "red.jpg", "0.png")] + [
        str(images / name) for name in ("more/1.png", "z.png")
    ]
    assert bulk(images, "-o", output).out == f"{output}: 2 parts; none was left\n"


def test_a_bad_file_does_not_stop_the_others(bulk, images: Path, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with tarfile.open(images / "shard.tar", "w") as archive:
        add(archive, "1.png", png(1))
        add(archive, "2.png", png(2))
    parquet.write_table(pyarrow.table({"url": ["a"]}), images / "shard.parquet")
    parquet.write_table(pyarrow.table({"a": [png(1)], "b": [png(2)]}), images / "two.parquet")
    output = tmp_path / "captions"
    result = bulk(images, "-o", output)
    assert result.code == 1 and result.out == f"{output}: 2 parts; 6 images captioned\n"
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert errors[0] == (
        f"error: {images / 'two.parquet'}: has 2 columns of bytes; run again and name one with --column: a, b"
    )
    assert errors[1].startswith(f"error: {images / 'broken.jpg'}: ") and len(errors) == 2
    assert "1 Parquet files without a column of bytes were left out" in result.err
    again = bulk(images, "-o", output, "--column", "b")
    assert (again.code, again.out) == (0, f"{output}: 3 parts; 1 new tar or Parquet files; 1 images captioned\n")


def test_rows_equal_those_of_the_caption_command(bulk, run, model: Path, images: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    try:
        (images / "caf\udce9.jpg").write_bytes((images / "red.jpg").read_bytes())
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    (images / "two\nlines\r.jpg").write_bytes((images / "blue.jpg").read_bytes())
    table = tmp_path / "c.csv"
    caption = run("caption", images, "-r", "--model", model, "--device", "cpu", "--json", "--output", table)
    for name, format in (("j", "jsonl"), ("p", "parquet")):
        assert bulk(images, "-o", tmp_path / name, "--format", format).code == caption.code == 1
    captioned = [json.loads(line) for line in caption.lines]
    whole = rows(tmp_path / "j")
    assert len(whole) == 7 and captioned == whole
    assert [row["bytes"] for row in whole] == [os.path.getsize(row["image"]) for row in whole]
    with open(table, encoding="utf-8", errors="surrogateescape", newline="") as file:
        cells = list(csv.DictReader(file))
    assert cells == [{name: "" if row[name] is None else str(row[name]) for name in FIELDS} for row in whole]
    shown = parquet.read_table(tmp_path / "p" / "part-00000.parquet").to_pylist()
    short = [{name: row[name] for name in FIELDS} for row in whole]
    assert shown == [row | {"image": row["image"].encode("utf-8", "backslashreplace").decode()} for row in short]


@pytest.mark.slow
def test_a_run_that_is_killed_repeatedly_captions_every_image_once(tmp_path: Path) -> None:
    source, output, chance = tmp_path / "photos", tmp_path / "captions", random.Random(0)
    source.mkdir()
    command = [sys.executable, "-m", "captioner", "bulk", str(source), "-o", str(output), "--part-size", "3"]
    for number in range(8):
        for image in range(3):
            (source / f"{chance.randrange(1000):03d}-{number}-{image}.png").write_bytes(png(number))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before, end = set(os.listdir(output)) if output.exists() else set(), time.monotonic() + 30
        while process.poll() is None and time.monotonic() < end:  # until it has begun to write
            if output.exists() and set(os.listdir(output)) != before:
                time.sleep(chance.choice((0, 0.02, 0.5, 2)))
                break
        process.send_signal(chance.choice((signal.SIGKILL, signal.SIGINT)))
        process.wait(60)
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    names = [row["image"] for row in rows(output)]
    assert sorted(names) == sorted(str(path) for path in source.iterdir()) and len(set(names)) == len(names)
    assert all(row["caption"] for row in rows(output))
    assert not [name for name in os.listdir(output) if name.endswith(".tmp")]
