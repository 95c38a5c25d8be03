"""Only the onnxruntime-web that its checksums name is taken."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from captioner.errors import CaptionerError, DownloadError
from captioner.web.browser import runtime
from tests.data.download.test_download import Server, archive_of, server

__all__ = ["server"]
CONTENT = {runtime.SCRIPT: b"export {};", runtime.WASM: b"\0asm"}


@pytest.fixture(autouse=True)
def pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pin small files, and keep what is downloaded in a folder of the test."""
    sums = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in CONTENT.items()}
    monkeypatch.setattr(runtime, "_FILES", sums)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pack(path: Path, **content: bytes) -> Path:
    """Write an archive as npm does."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {**CONTENT, **content}.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_it_is_read_from_an_archive_and_from_folders(tmp_path: Path) -> None:
    packed = runtime.read(pack(tmp_path / "runtime.tgz"))
    assert {name: packed[name] for name in CONTENT} == CONTENT
    assert b"MIT License" in packed["LICENSE"] and packed["ThirdPartyNotices.txt"]
    for inside in (".", "dist", "package/dist"):
        folder = tmp_path / "unpacked" / inside
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in CONTENT.items():
            (folder / name).write_bytes(content)
        assert runtime.read(tmp_path / "unpacked") == packed
        for name in CONTENT:
            (folder / name).unlink()


def test_anything_else_is_refused_by_name(tmp_path: Path) -> None:
    changed = pack(tmp_path / "changed.tgz", **{runtime.WASM: b"\0ASM"})
    (tmp_path / "text.tgz").write_text("hello")
    with tarfile.open(tmp_path / "other.tgz", "w:gz"):
        pass
    (tmp_path / "empty").mkdir()
    for path, reason in (
        (changed, f"its {runtime.WASM} is not that of onnxruntime-web {runtime.VERSION}"),
        (tmp_path / "text.tgz", "not a readable archive"),
        (tmp_path / "other.tgz", f"package/dist/{runtime.SCRIPT}"),
        (tmp_path / "empty", f"holds no {runtime.SCRIPT}"),
        (tmp_path / "missing.tgz", "there is no such file"),
    ):
        with pytest.raises(CaptionerError, match="npm pack onnxruntime-web@") as refused:
            runtime.read(path)
        assert str(path) in str(refused.value) and reason in str(refused.value)


def test_it_is_downloaded_once_and_checked(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = pack(tmp_path / "source.tgz").read_bytes()
    given = archive_of(server, data, runtime.ARCHIVE.path, checksum=f"sha512:{hashlib.sha512(data).hexdigest()}")
    archive = replace(given, path=runtime.ARCHIVE.path, places=(), unpacked=0)
    monkeypatch.setattr(runtime, "ARCHIVE", archive)
    assert runtime.cached() is None
    path = runtime.fetch()
    assert path == runtime.fetch() == runtime.cached() and len(server.requests) == 1
    assert runtime.read(path).keys() > CONTENT.keys()
    path.unlink()
    server.files[archive.path] = data[:-1] + b"!"
    with pytest.raises(DownloadError, match="sha512"):
        runtime.fetch()
    assert runtime.cached() is None
