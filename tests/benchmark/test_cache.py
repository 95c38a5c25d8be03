from __future__ import annotations

import os
from pathlib import Path

import pytest

from captioner.benchmark.cache import BenchmarkCache
from captioner.data.dataset import CaptionedImage
from captioner.data.packed import packed_name
from tests.data.test_packed import tar_of

KEY = {"model": "abc", "search": {"width": 3}, "features": None}


@pytest.fixture
def images(tmp_path: Path) -> dict[str, CaptionedImage]:
    out = {}
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).write_bytes(name.encode())
        out[name] = CaptionedImage(name, tmp_path / name, "dev", ("a dog",))
    return out


def test_captions_are_kept_for_the_same_model_search_and_files(
    tmp_path: Path, images: dict[str, CaptionedImage]
) -> None:
    captions = {"one.jpg": "a dog", "two.jpg": "ein Hündchen"}
    BenchmarkCache(tmp_path / "cache").save_captions(KEY, captions, images)
    cache = BenchmarkCache(tmp_path / "cache")
    assert cache.captions(KEY, images) == captions
    assert cache.captions(KEY, {"one.jpg": images["one.jpg"]}) == {"one.jpg": "a dog"}
    for other in ({**KEY, "model": "abd"}, {**KEY, "search": {"width": 4}}, {**KEY, "features": ["x"]}):
        assert cache.captions(other, images) == {}
    os.utime(images["two.jpg"].path, (1, 1))
    assert cache.captions(KEY, images) == {"one.jpg": "a dog"}
    images["one.jpg"].path.write_bytes(b"another image")
    assert cache.captions(KEY, images) == {}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 1, "key": {}}', b"\xff\xfe", b'{"format": 9, "key": null, "content": 3}']
)
def test_a_damaged_file_counts_as_missing(tmp_path: Path, images: dict[str, CaptionedImage], content: bytes) -> None:
    cache = BenchmarkCache(tmp_path / "cache")
    cache.save_captions(KEY, {"one.jpg": "a dog"}, images)
    (file,) = cache.folder.iterdir()
    file.write_bytes(content)
    assert cache.captions(KEY, images) == {}


@pytest.mark.parametrize("old", ["a dog", "two.jpg", "caption", "file", "captions", "format", "content"])
def test_captions_that_were_changed_are_not_used(tmp_path: Path, images: dict[str, CaptionedImage], old: str) -> None:
    cache = BenchmarkCache(tmp_path / "cache")
    cache.save_captions(KEY, {"one.jpg": "a dog", "two.jpg": "a captions file"}, images)
    (file,) = cache.folder.iterdir()
    for new in (old.upper(), "", old + '": ["x"], "y'):
        changed = file.read_text().replace(old, new, 1)
        (tmp_path / "cache" / file.name).write_text(changed)
        assert cache.captions(KEY, images) == {}, changed


def test_nested_and_swapped_files_count_as_missing(tmp_path: Path, images: dict[str, CaptionedImage]) -> None:
    cache = BenchmarkCache(tmp_path / "cache")
    cache.save_captions(KEY, {"one.jpg": "a dog"}, images)
    cache.save_timings(KEY, {"costs": 1})
    captions, timings = sorted(cache.folder.iterdir())
    captions.write_text("[" * 100_000)
    assert cache.captions(KEY, images) == {} and cache.timings(KEY) == {"costs": 1}
    captions.write_bytes(timings.read_bytes())
    assert cache.captions(KEY, images) == {}


def test_clearing_removes_only_the_files_of_the_cache(tmp_path: Path, images: dict[str, CaptionedImage]) -> None:
    cache = BenchmarkCache(tmp_path)
    cache.clear()
    cache.save_captions(KEY, {}, images)
    cache.save_timings(KEY, {"costs": 1})
    assert cache.timings(KEY) == {"costs": 1}
    (tmp_path / ".0123456789abcdef.tmp").write_text("a person's")
    cache.clear()
    assert sorted(file.name for file in tmp_path.iterdir()) == [".0123456789abcdef.tmp", "one.jpg", "two.jpg"]
    assert cache.timings(KEY) is None


def test_captions_of_images_inside_a_file_are_kept_while_it_is_the_same(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "p.tar", {"a.jpg": b"a"})
    images = {"a.jpg": CaptionedImage("a.jpg", packed_name(file, "a.jpg"), "dev", ("a dog",))}
    cache = BenchmarkCache(tmp_path / "cache")
    cache.save_captions(KEY, {"a.jpg": "a dog"}, images)
    assert cache.captions(KEY, images) == {"a.jpg": "a dog"}
    tar_of(file, {"a.jpg": b"b" * 20_000})
    assert cache.captions(KEY, images) == {}
