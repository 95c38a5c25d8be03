from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from captioner.cli import console
from captioner.data.download.catalog import CATALOG, Archive, DataSet
from tests.data.download.test_download import Answer, Server, zip_of


def make_image(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), (shade, 90, 200)).save(stream, "JPEG")
    return stream.getvalue()


def captions(*names: str) -> bytes:
    """A COCO caption file."""
    ids = {name: int(name[-10:-4]) for name in names}
    images = [{"id": number, "file_name": name} for name, number in ids.items()]
    annotations = [{"id": number, "image_id": number, "caption": f"A dog number {number}."} for number in ids.values()]
    return json.dumps({"images": images, "annotations": annotations}).encode()


def karpathy(*names: str, folder: str = "") -> bytes:
    images = [
        {"filename": name, "filepath": folder, "split": "val", "sentences": [{"raw": "A dog."}]} for name in names
    ]
    return json.dumps({"dataset": "tiny", "images": images}).encode()


TINY = {
    "train2014.zip": {
        "train2014/": b"",
        "train2014/COCO_train2014_000000000001.jpg": make_image(1),
        "train2014/COCO_train2014_000000000002.jpg": make_image(2),
    },
    "val2014.zip": {"val2014/": b"", "val2014/COCO_val2014_000000000003.jpg": make_image(3)},
    "annotations_trainval2014.zip": {
        "annotations/captions_train2014.json": captions(
            "COCO_train2014_000000000001.jpg", "COCO_train2014_000000000002.jpg"
        ),
        "annotations/captions_val2014.json": captions("COCO_val2014_000000000003.jpg"),
        "annotations/instances_val2014.json": b"{}",
    },
    "caption_datasets.zip": {
        "dataset_coco.json": karpathy("COCO_val2014_000000000003.jpg", folder="val2014"),
        "dataset_flickr8k.json": karpathy("dog.jpg"),
        "dataset_flickr30k.json": karpathy("cat.jpg"),
    },
    "Flickr8k_text.zip": {
        "Flickr8k.token.txt": b"dog.jpg#0\tA dog .\ndog.jpg#1\tThe dog .\n",
        "Flickr_8k.trainImages.txt": b"dog.jpg\n",
        "__MACOSX/._Flickr8k.token.txt": b"\0\5\x16\7",
    },
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of tiny data sets, to which the entries of the catalogue point; their folders stay."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(os, "sync", lambda: None, raising=False)
    running = Server()
    for name, members in TINY.items():
        running.files[name] = zip_of(members)

    def tiny(archive: Archive) -> Archive:
        name = archive.url.rpartition("/")[2]
        size = len(running.files.get(name, b""))
        return dataclasses.replace(archive, url=running.url(name), checksum="", size=size, unpacked=2 * size)

    entries: dict[str, DataSet] = {
        name: dataclasses.replace(CATALOG[name], archives=tuple(tiny(archive) for archive in CATALOG[name].archives))
        for name in CATALOG
    }
    monkeypatch.setattr(CATALOG, "_entries", entries)
    yield running
    running.close()


def test_list_shows_sizes_and_terms_and_downloads_nothing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("data", "download", "--list")
    assert (result.code, result.err) == (0, "")
    assert "coco  20.4 GB, unpacked about 21.0 GB" in result.lines
    assert "  http://images.cocodataset.org/zips/train2014.zip  13,510,573,713 bytes, sha256" in result.lines
    text = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip"
    assert f"  {text}  size unknown, md5" in result.lines
    assert result.out.count("Terms: ") == len(list(CATALOG))
    assert not any(tmp_path.iterdir())


def test_a_name_is_needed(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("data", "download")
    assert result.code == 2 and "--list" in result.err
    result = run("data", "download", "coc0")
    assert result.code == 1 and "Did you mean 'coco'?" in result.err
    assert not any(tmp_path.iterdir())


def test_coco_is_where_the_reader_looks(run, server: Server, tmp_path: Path) -> None:
    data = tmp_path / "data"
    result = run("data", "download", "coco", "coco-captions", "--to", data)
    assert result.code == 0
    assert sorted(line.partition(": ")[0] for line in result.lines) == [
        str(data / "coco" / name) for name in ("annotations_trainval2014.zip", "train2014.zip", "val2014.zip")
    ]
    assert "CC BY 4.0" in result.err and f"captioner data inspect {data / 'coco'}" in result.err
    size = sum(len(server.files[Path(line.partition(": ")[0]).name]) for line in result.lines)
    assert f"\n{data}{os.sep}: 3 archives: {size / 1e3:.1f} kB downloaded, 6 files unpacked\n" in result.err
    report = json.loads(run("data", "inspect", data / "coco", "--check-pictures", "--strict", "--json").out)
    assert (report["format"], report["missing"]["count"], report["unreadable"]["count"]) == ("coco", 0, 0)
    assert {name: split["photos"] for name, split in report["splits"].items()} == {"train": 2, "val": 1}

    before = len(server.requests)
    again = run("data", "download", "coco", "--to", data)
    assert again.code == 0 and all("nothing to download" in line for line in again.lines)
    assert len(server.requests) == before


def test_splits_and_text_are_where_the_readers_look(
    run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("data", "download", "coco", "karpathy-splits", "--delete-archives").code == 0
    assert not list(tmp_path.rglob("*.zip"))
    report = json.loads(run("data", "inspect", "data/coco", "--check-pictures", "--json").out)
    assert (report["format"], report["missing"]["count"]) == ("karpathy", 0)

    assert run("data", "download", "flickr8k-text", "--to", "text").code == 0
    (tmp_path / "text" / "flickr8k" / "Flicker8k_Dataset").mkdir()
    (tmp_path / "text" / "flickr8k" / "Flicker8k_Dataset" / "dog.jpg").write_bytes(make_image(1))
    report = json.loads(run("data", "inspect", "text/flickr8k", "--check-pictures", "--strict", "--json").out)
    assert (report["format"], report["missing"]["count"]) == ("flickr8k", 0)
    assert report["splits"]["train"]["captions"] == 2
    assert not list(tmp_path.rglob("*MACOSX*"))


def test_members(run, server: Server, tmp_path: Path) -> None:
    assert run("data", "download", "coco-captions", "--members", "*/captions_val*", "--to", tmp_path).code == 0
    assert [path.name for path in (tmp_path / "coco" / "annotations").iterdir()] == ["captions_val2014.json"]


def test_a_failed_download_does_not_stop_the_others(run, server: Server, tmp_path: Path) -> None:
    del server.files["val2014.zip"]
    result = run("data", "download", "coco", "--to", tmp_path)
    assert result.code == 1 and len(result.lines) == 2
    (line,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert str(tmp_path / "coco" / "val2014.zip") in line and server.url("val2014.zip") in line and "404" in line
    assert (tmp_path / "coco" / "train2014").is_dir() and (tmp_path / "coco" / "annotations").is_dir()
    assert "captioner data inspect" not in result.err


def test_bars_are_shown_on_a_terminal_but_not_in_the_results(
    run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    shown = Console(file=terminal, force_terminal=True, width=200, soft_wrap=True)
    monkeypatch.setattr(console, "stderr", lambda: shown)
    server.script = [Answer(cut=100)]  # its bar continues or starts over
    result = run("data", "download", "coco-captions", "--to", tmp_path)
    (line,) = result.lines
    assert result.code == 0 and line.startswith(f"{tmp_path / 'coco' / 'annotations_trainval2014.zip'}: ")
    assert "coco/annotations_trainval2014.zip" in terminal.getvalue()
