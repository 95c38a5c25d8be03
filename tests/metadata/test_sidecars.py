"""Captions beside images: text and XMP files, what a person wrote in them, and two runs at once."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from captioner.errors import ConfigError, FileError, ImageError
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
from captioner.metadata import sidecars as module
from tests.disks import largest_file
from tests.metadata.samples import PERSON, exiftool, needs_exiftool, picture, sample, tags
from tests.metadata.test_packet import DIGIKAM, LIGHTROOM

BOTH = (DESCRIPTION, ALT_TEXT)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return sample("baseline.jpg", tmp_path).rename(tmp_path / "photo.jpg")


def test_a_text_file_has_prefix_caption_and_suffix(image: Path) -> None:
    outcome = TextSidecars(prefix="ohwx, ", suffix=", photo").write(image, "a dog – on a beach")
    assert outcome.path == image.with_name("photo.txt") and outcome.written == (TEXT,)
    assert outcome.path.read_bytes() == "ohwx, a dog – on a beach, photo\n".encode()
    other = TextSidecars(extension="caption").write(image, "a dog")
    assert other.path == image.with_name("photo.caption") and other.path.read_text() == "a dog\n"


def test_a_persons_text_is_kept_and_this_programs_replaced(image: Path) -> None:
    path = image.with_suffix(".txt")
    path.write_text(PERSON, encoding="utf-8")
    assert TextSidecars().write(image, "a dog").kept == (TEXT,)
    assert path.read_text(encoding="utf-8") == PERSON
    assert TextSidecars(overwrite=True).write(image, "a dog").written == (TEXT,)
    assert TextSidecars().write(image, "a cat").written == (TEXT,)  # another run, which reads the record
    assert TextSidecars().write(image, "a cat").written == ()
    path.write_bytes(b"\xef\xbb\xbfa cat, ours\r\n")
    assert TextSidecars().write(image, "a dog").kept == (TEXT,)
    path.write_bytes(b"\xef\xbb\xbfa cat\r\n")  # the form in which an editor saves it makes no author
    assert TextSidecars().write(image, "a dog").written == (TEXT,)
    path.write_text(" \n")
    assert TextSidecars().write(image, "a dog").written == (TEXT,)


def test_without_the_record_a_text_is_a_persons(image: Path) -> None:
    TextSidecars().write(image, "a dog")
    image.with_name(RECORD).unlink()
    assert TextSidecars().write(image, "a cat").kept == (TEXT,)


def test_a_damaged_record_counts_as_far_as_it_is_whole(image: Path) -> None:
    TextSidecars().write(image, "a dog")
    record = image.with_name(RECORD)
    record.write_bytes(b'{"x"\n\xff\n[]\n' + record.read_bytes() + b'{"sidecar": "oth')
    writer = TextSidecars()
    assert writer.write(image, "a cat").written == writer.write(image, "a dog").written == (TEXT,)
    lines = record.read_bytes().splitlines()
    assert [json.loads(line)["image"] for line in (lines[3], *lines[-2:])] == ["photo.jpg"] * 3


def test_two_images_do_not_share_a_sidecar(image: Path) -> None:
    other = image.with_suffix(".png")
    picture().save(other)
    writer = TextSidecars()
    writer.write(image, "a dog")
    for again in (writer, TextSidecars()):  # also in a later run
        with pytest.raises(FileError, match=r"photo\.txt: is the sidecar of photo\.jpg, and photo\.png "):
            again.write(other, "a cat")
    assert TextSidecars().write(other, "a dog").written == ()
    image.unlink()
    assert TextSidecars().write(other, "a cat").written == (TEXT,)
    other.with_suffix(".txt").write_text(PERSON, encoding="utf-8")
    picture().save(image)
    assert [writer.write(each, "a bird").kept for each in (image, other)] == [(TEXT,)] * 2
    assert writer.write(image, " ").written == ()


def test_several_threads_write_beside_each_other(tmp_path: Path) -> None:
    images = [sample("baseline.jpg", tmp_path).rename(tmp_path / f"{number}.jpg") for number in range(24)]
    text, xmp = TextSidecars(), XmpSidecars()

    def write(image: Path) -> None:
        for caption in ("a dog", "a cat"):
            assert embed(image, caption, beside=sidecar_texts(image)).written == BOTH
            assert text.write(image, f"{caption} in {image.stem}").written == (TEXT,)
            assert xmp.write(image, f"{caption} in {image.stem}").written == BOTH

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, images))
    assert {image.with_suffix(".txt").read_text() for image in images} == {f"a cat in {n}\n" for n in range(24)}
    assert len([json.loads(line) for line in (tmp_path / RECORD).read_bytes().splitlines()]) == 48


def test_an_image_is_never_taken_for_its_sidecar(image: Path) -> None:
    for extension in (".png", "", "."):
        with pytest.raises(ConfigError, match="no extension of a text file"):
            TextSidecars(extension=extension)
    odd = image.rename(image.with_suffix(".txt"))
    with pytest.raises(FileError, match="would replace it"):
        TextSidecars().write(odd, "a dog")


def test_ten_thousand_sidecars_in_a_folder_are_replaced_in_one_reading_of_the_record(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"sidecar": f"{n}.txt", "image": f"{n}.jpg", "mark": str(n)}) for n in range(10_000)]
    image.with_name(RECORD).write_text("\n".join(lines) + "\n")
    parsed = []
    loads = json.loads
    monkeypatch.setattr(module.json, "loads", lambda line: parsed.append(line) or loads(line))
    writer = TextSidecars()
    for number in range(20):
        writer.write(image, f"{number} dogs")
    assert len(parsed) < 10_000 + 40


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
    # Programs that find both read only the longer name: a second file would hide what the first one says.
    assert XmpSidecars().write(image, "a dog").path == short
    assert "crs:Exposure2012" in short.read_text(encoding="utf-8")
    assert XmpSidecars(name="photo.jpg.xmp").write(image, "a dog").path == image.with_name("photo.jpg.xmp")
    assert XmpSidecars().write(image, "a cat").path == image.with_name("photo.jpg.xmp")
    assert XmpSidecars(name="photo.xmp").write(image, "a cat").path == short


def test_two_images_do_not_share_an_xmp_sidecar(image: Path) -> None:
    other = image.with_suffix(".png")
    picture().save(other)
    writer = XmpSidecars(name="photo.xmp")
    writer.write(image, "a dog")
    with pytest.raises(FileError, match=r"photo\.xmp: is the sidecar of photo\.jpg"):
        writer.write(other, "a cat")


def test_a_persons_description_counts_wherever_it_is(image: Path) -> None:
    short = image.with_suffix(".xmp")
    short.write_text(DIGIKAM.format(default=PERSON.replace("&", "&amp;").replace("<", "&lt;")), encoding="utf-8")
    assert [each.text for each in sidecar_texts(image)] == [PERSON, "Une plage"]
    assert {each.author for each in texts_of(image)} == {"person"}
    assert embed(image, "a dog", beside=sidecar_texts(image)).kept == (DESCRIPTION,)
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
        with pytest.raises(FileError, match=r"photo\.jpg\.xmp: is a damaged XMP sidecar: .*; repair or remove it"):
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
