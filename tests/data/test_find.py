"""Finding image files by names, folders and patterns."""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captioner.data.find import IMAGE_EXTENSIONS, find_images


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders and files in the working directory; nothing is decoded, so they may be empty."""
    for name in (
        *("photos/b.jpg", "photos/a.PNG", "photos/notes.txt", "photos/.hidden.jpg", "photos/a[1].jpg"),
        *("photos/sub/c.webp", "photos/sub/deep/d.heic", "photos/.git/e.jpg", "empty/readme.md"),
        *("odd [x]/f.jpg", "odd [x]/g.jpg", "what?.jpg"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*paths: str | Path, **options: Any) -> list[str]:
    return [path.as_posix() for path in find_images(paths, **options)]


def test_a_folder_gives_its_images_sorted(album: Path) -> None:
    top = ["photos/a.PNG", "photos/a[1].jpg", "photos/b.jpg"]
    assert found("photos") == found("photos/") == top
    assert found(album / "photos") == [(album / name).as_posix() for name in top]
    assert found("photos", recursive=True) == [*top, "photos/sub/c.webp", "photos/sub/deep/d.heic"]


def test_patterns_match_as_in_the_shell(album: Path) -> None:
    assert found("photos/*.jpg") == ["photos/a[1].jpg", "photos/b.jpg"]
    assert found("photos/**/*.webp") == ["photos/sub/c.webp"]
    everything = ["photos/a.PNG", "photos/a[1].jpg", "photos/b.jpg", "photos/sub/c.webp", "photos/sub/deep/d.heic"]
    assert found("photos/**") == found("photos/**/*") == everything
    assert found("photos/[bn]*") == ["photos/b.jpg", "photos/notes.txt"]
    assert found("photos/.*.jpg") == ["photos/.hidden.jpg"]
    assert found("ph*") == found("photos")
    assert found(str(album / "photos" / "b.*")) == [(album / "photos/b.jpg").as_posix()]


def test_existing_names_are_not_patterns(album: Path) -> None:
    assert found("photos/a[1].jpg", "what?.jpg") == ["photos/a[1].jpg", "what?.jpg"]
    assert found("odd [x]") == found("odd [x]/*.jpg") == ["odd [x]/f.jpg", "odd [x]/g.jpg"]


def test_missing_files_are_yielded_unchanged(album: Path) -> None:
    names = ["gone.jpg", "gone/*.jpg", "a**b", "photos/notes.txt", "photos/z*", "x" * 5000]
    assert found(*names) == names
    Path("dangling.jpg").symlink_to("gone.jpg")
    assert found("dangling.jpg") == ["dangling.jpg"]


def test_empty_folders_are_reported(album: Path) -> None:
    messages: list[str] = []
    assert found("empty", "photos/b.jpg", on_empty=messages.append) == ["photos/b.jpg"]
    assert messages == ["empty/: no images in this folder (use --recursive to look in subfolders)"]
    assert found("empty", recursive=True, on_empty=messages.append) == []
    assert messages[1] == "empty/: no images in this folder"
    assert found("empty") == []


def test_links_in_a_circle_end(album: Path) -> None:
    for name in ("photos/sub/up", "photos/sub/deep/up"):
        Path(name).symlink_to(album / "photos")
    Path("photos/self.jpg").symlink_to("self.jpg")
    names = found("photos", recursive=True)
    assert names == [
        *("photos/a.PNG", "photos/a[1].jpg", "photos/b.jpg", "photos/self.jpg", "photos/sub/c.webp"),
        "photos/sub/deep/d.heic",
    ]
    start = time.monotonic()
    assert "photos/sub/deep/d.heic" in found("photos/**/*.heic")
    assert time.monotonic() - start < 5


def test_names_come_in_the_order_of_their_folders(album: Path) -> None:
    for name in ("a/2.jpg", "a.jpg", "a-b/1.jpg", "a b.jpg", "a/b/3.jpg", "a/b.jpg", "B.jpg", "é/1.jpg", "a!/1.jpg"):
        (Path("order") / name).parent.mkdir(parents=True, exist_ok=True)
        (Path("order") / name).touch()
    names = found("order", recursive=True)
    assert len(names) == 9 and names == sorted(names, key=lambda name: name.split("/"))
    assert found("order/*", recursive=True) == names


def test_archives_count_on_request(album: Path) -> None:
    for name in ("photos/1.tar", "photos/sub/2.TAR.GZ", "photos/.3.tar", "photos/4.zip"):
        Path(name).touch()
    more = found("photos", recursive=True, archives=(".tar", ".tar.gz"))
    assert set(more).difference(found("photos", recursive=True)) == {"photos/1.tar", "photos/sub/2.TAR.GZ"}
    assert "photos/1.tar" in found("photos/*", archives=(".tar",)) and "photos/1.tar" not in found("photos/*")


def test_a_folder_that_cannot_be_read_is_reported_once(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refused(folder: Any) -> Any:
        if Path(folder).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refused)
    messages: list[str] = []
    assert found("photos", recursive=True, on_empty=messages.append) == found("photos")
    assert found("photos/sub", recursive=True, on_empty=messages.append) == []
    assert messages == ["photos/sub/: cannot look into this folder (Permission denied); check its permissions"] * 2
    empty: list[str] = []
    assert found("photos/sub", "empty", on_empty=empty.append, on_unreadable=messages.append) == []
    assert len(messages) == 3 and empty == ["empty/: no images in this folder (use --recursive to look in subfolders)"]


def test_folders_may_be_nested_deeply(album: Path) -> None:
    path = Path(*["deep"] * 200)
    path.mkdir(parents=True)
    (path / "1.jpg").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)  # instead of a thousand folders, which are slow to remove
    try:
        assert found("deep", recursive=True) == [str(path / "1.jpg")]
    finally:
        sys.setrecursionlimit(limit)


def test_finding_is_lazy(album: Path) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "photos/b.jpg"

    images = find_images(endless())
    assert [next(images).name for _ in range(3)] == ["b.jpg"] * 3


def test_extensions_are_lower_case_and_cover_the_formats() -> None:
    usual = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif")
    assert IMAGE_EXTENSIONS.issuperset(usual)
    assert not {".txt", ".eps", ".svg", ".pdf", ".mp4", ""} & IMAGE_EXTENSIONS
    assert all(name == name.lower() and name.startswith(".") for name in IMAGE_EXTENSIONS)
