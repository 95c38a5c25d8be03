"""Files next to images, text and XMP: several threads, links, permissions, and other programs that write them."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from captioner.errors import FileError
from captioner.metadata import (
    ALT_TEXT,
    DESCRIPTION,
    RECORD,
    TEXT,
    TextSidecars,
    XmpSidecars,
    embed,
    sidecar_texts,
    texts_of,
)
from tests.metadata.samples import picture, sample

BOTH = (DESCRIPTION, ALT_TEXT)


def test_several_threads_write_at_once(tmp_path: Path) -> None:
    images = [sample("baseline.jpg", tmp_path).rename(tmp_path / f"{number}.jpg") for number in range(24)]
    text, xmp = TextSidecars(), XmpSidecars()

    def write(image: Path) -> None:
        for caption in ("a dog", "a cat"):
            assert embed(image, caption, sidecars=sidecar_texts(image)).written == BOTH
            assert text.write(image, f"{caption} in {image.stem}").written == (TEXT,)
            assert xmp.write(image, f"{caption} in {image.stem}").written == BOTH

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, images))
    assert {image.with_suffix(".txt").read_text() for image in images} == {f"a cat in {n}\n" for n in range(24)}
    assert len([json.loads(line) for line in (tmp_path / RECORD).read_bytes().splitlines()]) == 48


@pytest.mark.parametrize("kind", ["text", "xmp"])
def test_read_only_and_linked_sidecars_are_refused(kind: str, image: Path) -> None:
    writer = TextSidecars(overwrite=True) if kind == "text" else XmpSidecars(overwrite=True)
    path = writer.write(image, "a dog").path
    path.chmod(0o444)
    with pytest.raises(FileError, match="read-only"):
        writer.write(image, "a cat")
    assert writer.write(image, "a dog").written == ()
    path.chmod(0o644)
    target = path.rename(path.with_name("elsewhere"))
    path.symlink_to(target)
    with pytest.raises(FileError, match="is a link to"):
        writer.write(image, "a cat")
    target.unlink()
    with pytest.raises(FileError, match=r"is a link to .*which does not exist"):
        writer.write(image, "a cat")


@pytest.mark.parametrize("kind", ["text", "xmp"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_sidecar_that_changes_meanwhile_is_left_alone(
    kind: str, exists: bool, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TextSidecars() if kind == "text" else XmpSidecars()
    path = image.with_name("photo.txt" if kind == "text" else "photo.jpg.xmp")
    if exists:
        writer.write(image, "a dog")
    write = Path.write_bytes

    def meanwhile(self: Path, data: bytes) -> int:
        write(path, b"a person's")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", meanwhile)
    with pytest.raises(FileError, match=f"{path.name}: another program has (changed|written) it meanwhile"):
        writer.write(image, "a cat")
    assert path.read_bytes() == b"a person's"


@pytest.mark.parametrize("kind", ["text", "xmp"])
def test_a_pipe_or_a_folder_in_the_place_of_a_sidecar_is_named(kind: str, image: Path) -> None:
    writer = TextSidecars() if kind == "text" else XmpSidecars()
    path = writer.path(image)
    for make in (os.mkfifo, os.mkdir):
        make(path)
        with pytest.raises(FileError, match=f"{path.name}: is not a file, and stands where the sidecar belongs"):
            writer.write(image, "a dog")
        assert embed(image, "a dog", sidecars=sidecar_texts(image)).kept == ()
        path.unlink() if path.is_fifo() else path.rmdir()


def test_a_name_that_leaves_no_room_for_that_of_a_sidecar_costs_only_the_sidecar(image: Path) -> None:
    image = image.rename(image.with_name(f"{'x' * 251}.jpg"))
    assert embed(image, "a dog", sidecars=sidecar_texts(image)).written == BOTH
    assert XmpSidecars(name="photo.xmp").write(image, "a dog").written == BOTH
    image.with_suffix(".xmp").unlink()
    before = sorted(image.parent.iterdir())
    for writer in (XmpSidecars(), TextSidecars(extension=".caption")):
        with pytest.raises(FileError, match=r"its name is too long for the file system \(259 bytes\)"):
            writer.write(image, "a dog")
    assert sorted(image.parent.iterdir()) == before, "nor is it recorded"
    assert [each.place for each in texts_of(image)] == [image.name] * 2


def test_an_image_that_changed_since_it_was_captioned_gets_no_caption(image: Path) -> None:
    seen = image.stat()
    writers = [embed, TextSidecars().write, XmpSidecars().write]
    for number, write in enumerate(writers):
        assert write(image, f"{number} dogs", seen=image.stat()).written
    picture(seed=9).save(image)
    before = sorted((each.name, each.read_bytes()) for each in image.parent.iterdir())
    for write in writers:
        with pytest.raises(FileError, match=r"photo\.jpg: another program has changed it since it was captioned"):
            write(image, "a cat", seen=seen)
    assert sorted((each.name, each.read_bytes()) for each in image.parent.iterdir()) == before
    image.unlink()
    with pytest.raises(FileError, match=r"photo\.jpg: cannot be found again"):
        TextSidecars().write(image, "a cat", seen=seen)
