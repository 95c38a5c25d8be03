"""Captions in XMP files next to images: texts of people in them, and reading them by exiftool."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from captioner.errors import FileError, ImageError
from captioner.metadata import (
    ALT_TEXT,
    DESCRIPTION,
    XmpSidecars,
    embed,
    sidecar_texts,
    texts_of,
)
from tests.disks import largest_file
from tests.metadata.samples import PERSON, exiftool, needs_exiftool, picture, tags
from tests.metadata.test_packet import DIGIKAM, LIGHTROOM

BOTH = (DESCRIPTION, ALT_TEXT)


def test_a_full_disk_leaves_the_sidecar(image: Path) -> None:
    writer = XmpSidecars()
    path = writer.write(image, "a dog").path
    before = path.read_bytes()
    with largest_file(100), pytest.raises(FileError, match=r"photo\.jpg\.xmp"):
        writer.write(image, "a cat")
    assert path.read_bytes() == before


@needs_exiftool
def test_exiftool_reads_a_new_sidecar(image: Path) -> None:
    outcome = XmpSidecars().write(image, {"en": "a <dog> & a ball", "de": "ein Hund – nah"})
    assert outcome.path.name == "photo.jpg.xmp" and outcome.written == BOTH
    found = tags(outcome.path)[0]
    for tag in ("XMP-dc:Description", "XMP-iptcCore:AltTextAccessibility"):
        assert found[tag] == found[f"{tag}-en"] == "a <dog> & a ball" and found[f"{tag}-de"] == "ein Hund – nah"
    assert "ExifTool:Warning" not in found
    # And its rewritten form is still recognised.
    exiftool("-overwrite_original", "-XMP-dc:Title=Holiday", outcome.path)
    assert XmpSidecars().write(image, {"en": "a cat"}).written == BOTH
    found = tags(outcome.path)[0]
    assert found["XMP-dc:Title"] == "Holiday" and found["XMP-dc:Description"] == "a cat"


@needs_exiftool
def test_a_sidecar_of_exiftool_is_kept(image: Path) -> None:
    path = image.with_name("photo.jpg.xmp")
    exiftool("-XMP-dc:Title=Holiday", "-XMP-dc:Subject=beach", "-XMP-xmp:Rating=4", "-o", path)
    before = tags(path)[0]
    assert XmpSidecars().write(image, "a dog").written == BOTH
    after = tags(path)[0]
    assert {key for key in before if before[key] != after.get(key)} <= {
        *("System:FileModifyDate", "System:FileSize", "System:FileInodeChangeDate", "System:FileAccessDate"),
    }


def test_the_sidecar_that_is_there_is_used(image: Path) -> None:
    short = image.with_suffix(".xmp")
    short.write_text(LIGHTROOM, encoding="utf-8")
    # Programs that find both read only the longer name: a second file would hide the text of the first.
    assert XmpSidecars().write(image, "a dog").path == short
    assert "crs:Exposure2012" in short.read_text(encoding="utf-8")
    assert XmpSidecars(name="photo.jpg.xmp").write(image, "a dog").path == image.with_name("photo.jpg.xmp")
    assert XmpSidecars().write(image, "a cat").path == image.with_name("photo.jpg.xmp")
    assert XmpSidecars(name="photo.xmp").write(image, "a cat").path == short


def test_two_images_do_not_share_an_xmp_sidecar(image: Path) -> None:
    short = XmpSidecars(name="photo.xmp").write(image, "a dog").path
    other = image.with_suffix(".PNG")
    picture().save(other)
    for writer in (XmpSidecars(name="photo.xmp"), XmpSidecars(name="photo.xmp", overwrite=True)):
        with pytest.raises(
            FileError, match=r"photo\.xmp: is the sidecar of photo\.jpg, and photo\.PNG cannot share it"
        ):
            writer.write(other, "a cat")
    assert XmpSidecars().write(other, "a cat").path.name == "photo.PNG.xmp"
    assert [each.text for each in sidecar_texts(image)] == ["a dog", "a dog"]
    other.unlink()
    assert XmpSidecars().write(image, "a bird").path == short


def test_the_short_name_is_that_of_the_raw_photo_and_never_the_long_one_of_another_image(image: Path) -> None:
    raw, converted = image.with_suffix(".CR2"), image.with_name("photo.jpg.webp")
    raw.write_bytes(b"II*\0raw")
    picture().save(converted)
    image.with_suffix(".xmp").write_text(LIGHTROOM, encoding="utf-8")
    for _ in range(2):
        paths = [XmpSidecars().write(each, f"{each.name} shows a dog").path for each in (image, raw, converted)]
        assert [path.name for path in paths] == ["photo.jpg.xmp", "photo.xmp", "photo.jpg.webp.xmp"]
    assert XmpSidecars(name="photo.xmp").write(raw, "a cat").written


def test_a_persons_description_counts_wherever_it_is(image: Path) -> None:
    short = image.with_suffix(".xmp")
    short.write_text(DIGIKAM.format(default=PERSON.replace("&", "&amp;").replace("<", "&lt;")), encoding="utf-8")
    assert [each.text for each in sidecar_texts(image)] == [PERSON, "Une plage"]
    assert {each.author for each in texts_of(image)} == {"person"}
    assert embed(image, "a dog", sidecars=sidecar_texts(image)).kept == (DESCRIPTION,)
    assert XmpSidecars(name="photo.jpg.xmp").write(image, "a dog").kept == (DESCRIPTION,)


@needs_exiftool
def test_a_description_inside_the_image_is_not_hidden_by_a_sidecar(image: Path) -> None:
    exiftool("-overwrite_original", "-IPTC:Caption-Abstract=Grandma", image)
    outcome = XmpSidecars().write(image, "a dog")
    assert outcome.kept == (DESCRIPTION,) and outcome.written == (ALT_TEXT,)
    assert XmpSidecars(overwrite=True).write(image, "a dog").written == (DESCRIPTION,)


@needs_exiftool
def test_a_caption_that_another_program_copied_is_this_programs(image: Path) -> None:
    XmpSidecars().write(image, "a dog")
    exiftool("-overwrite_original", "-EXIF:ImageDescription=a  dog", image)
    assert {each.author for each in texts_of(image)} == {"captioner"}
    assert XmpSidecars().write(image, "a cat").written == BOTH
    # The old caption in EXIF still has its mark.
    assert XmpSidecars().write(image, "a bird").written == BOTH


@pytest.mark.parametrize("content", [b"<x:xmpmeta", b"a text", b"\0\1", '<?xml version="1.0"?><a/>'.encode("utf-16")])
def test_a_damaged_sidecar_is_named_and_left_alone(content: bytes, image: Path) -> None:
    path = image.with_name("photo.jpg.xmp")
    path.write_bytes(content)
    for overwrite in (False, True):
        with pytest.raises(FileError, match=r"photo\.jpg\.xmp: cannot be read as XMP: .*; repair it, or move it away"):
            XmpSidecars(overwrite=overwrite).write(image, "a dog")
    assert path.read_bytes() == content


def test_an_empty_sidecar_is_filled(image: Path) -> None:
    image.with_name("photo.jpg.xmp").write_bytes(b"\n")
    assert XmpSidecars().write(image, "a dog").written == BOTH


def test_sidecars_are_for_images_of_any_kind_that_exist(tmp_path: Path) -> None:
    for name in ("photo.heic", "photo.cr2"):
        (tmp_path / name).write_bytes(b"not read")
        assert XmpSidecars().write(tmp_path / name, "a dog").written == BOTH
    with pytest.raises(ImageError, match="no such file"):
        XmpSidecars().write(tmp_path / "missing.jpg", "a dog")


def test_permissions_of_a_sidecar_are_kept_and_its_time_is_new(image: Path) -> None:
    path = XmpSidecars().write(image, "a dog").path
    path.chmod(0o640)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    XmpSidecars().write(image, "a cat")
    assert path.stat().st_mode & 0o777 == 0o640 or os.name == "nt"
    assert path.stat().st_mtime > 1_500_000_000  # programs read it again because of that
