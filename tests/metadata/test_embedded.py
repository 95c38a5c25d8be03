"""Captions inside image files: every format, other programs' metadata, and who wrote what."""

from __future__ import annotations

import os
import random
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pillow_heif
import pytest
from PIL import Image

from captioner.errors import CaptionerError, FileError, ImageError
from captioner.metadata import ALT_TEXT, DESCRIPTION, embed, embedded_texts, texts_of
from captioner.metadata import embedded as module
from tests.disks import largest_file, small_disk
from tests.metadata.samples import (
    PERSON,
    SAMPLES,
    compressed,
    exiftool,
    frames,
    needs_exiftool,
    picture,
    sample,
    tags,
)

BOTH = (DESCRIPTION, ALT_TEXT)


def xmp_of(path: Path) -> str:
    """Return the packet as Pillow finds it."""
    if path.name == "big_motorola.tif":
        data = path.read_bytes()
        return data[data.rindex(b"<?xpacket begin") : data.rindex(b'end="w"?>') + 9].decode()
    with Image.open(path) as image:
        found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return found if isinstance(found, str) else found.decode()


def without(found: dict[str, Any], *beginnings: str) -> dict[str, Any]:
    return {key: value for key, value in found.items() if not key.startswith(beginnings)}


def captions_in(path: Path, name: str) -> dict[str | None, str | None]:
    """Return the texts of a property by language, as another XML parser reads them."""
    items = ElementTree.fromstring(xmp_of(path).strip("\0")).findall(f".//{{*}}{name}//{{*}}li")
    return {item.get("{http://www.w3.org/XML/1998/namespace}lang"): item.text for item in items}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_caption_changes_nothing_of_the_compressed_image(name: str, tmp_path: Path) -> None:
    path = sample(name, tmp_path)
    shown, stored = frames(path), compressed(path)
    sizes = [path.stat().st_size]
    # A new packet, a longer one, a shorter one, and one in another language.
    for captions in ({"en": "a dog"}, {"en": "a dog " * 400}, {"en": "a dog"}, {"de": "ein Hund – ganz nah"}):
        assert embed(path, captions).written == BOTH
        assert frames(path) == shown
        assert compressed(path) == stored
        sizes.append(path.stat().st_size)
    expected = {"x-default": "a dog", "en": "a dog", "de": "ein Hund – ganz nah"}
    assert captions_in(path, "description") == captions_in(path, "AltTextAccessibility") == expected
    assert sizes[0] < sizes[1] < sizes[2]


@needs_exiftool
def test_exiftool_reads_every_format_and_finds_no_fault_that_was_not_there(tmp_path: Path) -> None:
    paths = [sample(name, tmp_path) for name in SAMPLES]
    before = tags(*paths)
    for path in paths:
        embed(path, {"en": "a <dog> & a ball", "de": "ein Hund"})
    assert len(before) == len(paths)
    for old, new in zip(before, tags(*paths), strict=True):
        for tag in ("XMP-dc:Description", "XMP-iptcCore:AltTextAccessibility"):
            assert new[tag] == new[f"{tag}-en"] == "a <dog> & a ball"
            assert new[f"{tag}-de"] == "ein Hund"
        assert new.get("ExifTool:Warning") == old.get("ExifTool:Warning"), new["SourceFile"]
        changing = ("XMP-", "System:", "ExifTool:", "RIFF:", "File:FileType", "IFD0:ApplicationNotes")
        moved = ("MPImage1:MPImageLength", "MPImage2:MPImageStart", "MPImage3:MPImageStart")
        assert without(new, *changing, *moved) == without(old, *changing, *moved)


@needs_exiftool
def test_the_other_images_of_a_file_keep_their_places_in_its_index(tmp_path: Path) -> None:
    path = sample("two.mpo", tmp_path)
    before = exiftool("-b", "-MPImage2", path)
    embed(path, "a dog")
    assert exiftool("-b", "-MPImage2", path) == before


@pytest.mark.parametrize("name", ["baseline.jpg", "plain.png", "lossy.webp", "plain.tif", "motorola.tif"])
@needs_exiftool
def test_metadata_of_exiftool_is_kept_and_exiftool_writes_on(name: str, tmp_path: Path) -> None:
    path = sample(name, tmp_path)
    exiftool(
        *("-overwrite_original", "-XMP-dc:Title=Holiday", "-XMP-dc:Creator=Zoë", "-XMP-xmp:Rating=4"),
        *("-XMP-photoshop:City=Köln", "-XMP-xmpMM:HistoryAction=saved", "-EXIF:Artist=Zoë", path),
    )
    before = tags(path)[0]
    stored = compressed(path)
    assert embed(path, {"en": "a dog"}).written == BOTH
    after = tags(path)[0]
    assert {key for key, value in before.items() if after.get(key) != value} <= {
        *("System:FileSize", "System:FileAccessDate", "System:FileInodeChangeDate", "ExifTool:Validate"),
        *("IFD0:StripOffsets", "RIFF:WebP_Flags"),
    }
    exiftool("-overwrite_original", "-XMP-dc:Title=Another", path)
    # exiftool has rewritten the packet, with the marks: the caption is still this program's.
    assert embed(path, {"en": "a cat"}).written == BOTH
    again = tags(path)[0]
    assert again["XMP-dc:Description-en"] == "a cat" and again["XMP-dc:Title"] == "Another"
    if not name.endswith("tif"):  # exiftool moves the strips of a TIFF itself
        assert compressed(path) == stored


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("baseline.jpg", ["-XMP-dc:Description=" + PERSON], PERSON),
        ("baseline.jpg", ["-XMP-dc:Description-fr=" + PERSON], PERSON),
        ("baseline.jpg", ["-XMP-tiff:ImageDescription=" + PERSON], PERSON),
        ("baseline.jpg", ["-EXIF:ImageDescription=" + PERSON], PERSON),
        ("plain.tif", ["-EXIF:ImageDescription=" + PERSON], PERSON),
        ("baseline.jpg", ["-IPTC:Caption-Abstract=" + PERSON, "-IPTC:CodedCharacterSet=UTF8"], PERSON),
        ("plain.tif", ["-IPTC:Caption-Abstract=" + PERSON, "-IPTC:CodedCharacterSet=UTF8"], PERSON),
        ("baseline.jpg", ["-IPTC:Caption-Abstract=“Zoë” – 80 €"], "“Zoë” – 80 €"),  # in Windows-1252
    ],
    ids=["dc", "french", "tiff", "exif", "exif_of_a_tiff", "iptc", "iptc_of_a_tiff", "windows_1252"],
)
@needs_exiftool
def test_what_a_person_wrote_with_another_program_is_kept(
    name: str, arguments: list[str], text: str, tmp_path: Path
) -> None:
    path = sample(name, tmp_path)
    exiftool("-overwrite_original", *arguments, path)
    assert [(each.field, each.text, each.author) for each in embedded_texts(path)] == [(DESCRIPTION, text, "person")]
    outcome = embed(path, {"en": "a dog"})
    assert outcome.kept == (DESCRIPTION,) and outcome.written == (ALT_TEXT,)
    assert [each.text for each in embedded_texts(path) if each.field == DESCRIPTION] == [text]
    before = path.read_bytes()
    assert embed(path, {"en": "a dog"}).written == ()
    assert path.read_bytes() == before
    assert embed(path, {"en": "a dog"}, overwrite=True).written == (DESCRIPTION,)
    found = tags(path)[0]
    assert found["XMP-dc:Description"] == "a dog"
    # A French text is not an English one: it stays, but is not what most programs show.
    assert found.get("XMP-dc:Description-fr") == (PERSON if "fr=" in arguments[0] else None)


@needs_exiftool
def test_descriptions_in_png_and_webp_are_a_persons(tmp_path: Path) -> None:
    png, webp = sample("plain.png", tmp_path), sample("lossy.webp", tmp_path)
    exiftool("-overwrite_original", "-PNG:Description=" + PERSON, png)
    exiftool("-overwrite_original", "-EXIF:ImageDescription=" + PERSON, webp)
    for path in (png, webp):
        assert [(each.text, each.author) for each in embedded_texts(path)] == [(PERSON, "person")]
        assert embed(path, "a dog").kept == (DESCRIPTION,)


@pytest.mark.parametrize("text", ["OLYMPUS DIGITAL CAMERA         ", "SONY DSC", "DCIM\\100MEDIA\\DJI_0042.JPG", " \0"])
def test_what_a_camera_wrote_is_not_a_persons(text: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[270] = text
    path = tmp_path / "camera.jpg"
    picture().save(path, exif=exif)
    assert embed(path, "a dog").written == BOTH


def test_a_text_that_a_person_changed_is_a_persons(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    embed(path, {"en": "a dog on a beach"})
    path.write_bytes(path.read_bytes().replace(b"a dog on", b"our dog at"[:8]))
    assert {each.author for each in texts_of(path)} == {"person"}
    before = path.read_bytes()
    assert embed(path, {"en": "a cat"}).kept == BOTH
    assert path.read_bytes() == before


def test_a_language_is_added_and_the_default_stays_in_the_first(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    embed(path, {"en": "a dog"})
    embed(path, {"de": "ein Hund"})
    embed(path, {"en-GB": "a hound"})
    found = {each.language: each.text for each in embedded_texts(path) if each.field == ALT_TEXT}
    assert found == {"x-default": "a dog", "en": "a dog", "de": "ein Hund", "en-gb": "a hound"}
    embed(path, {"en": "a puppy"})
    found = {each.language: each.text for each in embedded_texts(path) if each.field == ALT_TEXT}
    assert found == {"x-default": "a puppy", "en": "a puppy", "de": "ein Hund", "en-gb": "a hound"}


def test_times_permissions_and_extended_attributes_are_kept(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    path.chmod(0o640)
    os.utime(path, ns=(1_000_000_000_000_000_001, 1_100_000_000_123_456_789))
    has_attributes = hasattr(os, "setxattr")
    if has_attributes:
        try:
            os.setxattr(path, "user.tag", b"holiday")
        except OSError:
            has_attributes = False
    before = path.stat()
    embed(path, "a dog")
    after = path.stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    assert stat.S_IMODE(after.st_mode) == 0o640 or os.name == "nt"
    assert not has_attributes or os.getxattr(path, "user.tag") == b"holiday"
    assert [entry.name for entry in tmp_path.iterdir()] == ["baseline.jpg"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files to others")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    os.chown(path, 1234, 1235)
    embed(path, "a dog")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)


def refused(path: Path, *words: str, error: type[CaptionerError] = FileError) -> None:
    """Hold that embedding fails with an error that names the file and has some words, and leaves the file alone."""
    before, status = path.read_bytes(), path.lstat()
    with pytest.raises(error) as caught:
        embed(path, "a dog")
    assert str(path) in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
    assert path.read_bytes() == before and path.lstat().st_mtime_ns == status.st_mtime_ns
    assert not [each for each in path.parent.iterdir() if each.name.startswith(".captioner")]


def test_read_only_links_and_hard_links_are_refused(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    path.chmod(0o444)
    refused(path, "read-only")
    path.chmod(0o644)
    link = tmp_path / "link.jpg"
    link.symlink_to(path)
    refused(link, "is a link", str(path))
    os.link(path, tmp_path / "second.jpg")
    refused(path, "2 names")


@pytest.mark.parametrize("how", ["content", "replaced", "removed"])
def test_a_photo_that_changes_meanwhile_is_left_alone(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sample("baseline.jpg", tmp_path)
    other = tmp_path / "other.jpg"
    picture(seed=5).save(other)
    content = other.read_bytes()
    check = module._check_copy

    def meanwhile(*arguments: object) -> None:
        check(*arguments)  # type: ignore[arg-type]
        if how == "content":
            path.write_bytes(content)
        elif how == "replaced":
            other.replace(path)
        else:
            path.unlink()

    monkeypatch.setattr(module, "_check_copy", meanwhile)
    with pytest.raises(FileError, match="another program has changed it"):
        embed(path, "a dog")
    assert not path.exists() if how == "removed" else path.read_bytes() == content


def test_a_full_disk_leaves_the_photo(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    with largest_file(1000):
        refused(path, "larger than files may be")
    with small_disk(tmp_path / "disk", "64k") as disk:
        photo = disk / "photo.jpg"
        photo.write_bytes(path.read_bytes())
        with suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        refused(photo, "full")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.gif", "GIF"), ("a.bmp", "BMP"), ("a.avif", "AVIF"), ("a.heic", "HEIC"), ("a.nef", "raw photos")],
)
def test_other_formats_are_refused_with_the_sidecar_as_the_way_out(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if kind == "HEIC":
        pillow_heif.from_pillow(picture()).save(path, format="HEIF")
    else:
        picture().save(path, format="TIFF" if name == "a.nef" else kind)
    refused(path, kind, "write an XMP sidecar")


@pytest.mark.parametrize("name", ["a.heic", "a.avif"])
def test_descriptions_in_heic_and_avif_are_read(name: str, tmp_path: Path) -> None:
    source = sample("baseline.jpg", tmp_path)
    embed(source, "a dog")
    exif = Image.Exif()
    exif[270] = "Grandma"
    path, xmp = tmp_path / name, xmp_of(source).encode()
    if name == "a.heic":
        pillow_heif.from_pillow(picture()).save(path, format="HEIF", exif=exif.tobytes(), xmp=xmp)
    else:
        picture().save(path, exif=exif, xmp=xmp)
    found = [(each.field, each.text, each.author) for each in embedded_texts(path)]
    assert found == [
        (DESCRIPTION, "a dog", "captioner"),
        (ALT_TEXT, "a dog", "captioner"),
        (DESCRIPTION, "Grandma", "person"),
    ]


@needs_exiftool
@pytest.mark.parametrize("kind", ["gif", "jp2", "jxl"])
def test_descriptions_that_exiftool_writes_into_other_formats_are_read(kind: str, tmp_path: Path) -> None:
    if kind == "jxl":
        pytest.importorskip("pillow_jxl")
    path = tmp_path / f"a.{kind}"
    picture().save(path)
    assert embedded_texts(path) == []
    exiftool("-m", "-overwrite_original", f"-XMP-dc:Description={PERSON}", path)
    assert [(each.field, each.text) for each in embedded_texts(path)] == [(DESCRIPTION, PERSON)]
    data = path.read_bytes()
    for end in range(0, len(data), len(data) // 100):
        path.write_bytes(data[:end])
        assert {each.text for each in embedded_texts(path)} <= {PERSON}
    if kind == "jxl":
        path.write_bytes(data)
        exiftool("-m", "-overwrite_original", "-XMP:all=", "-EXIF:ImageDescription=Grandma", path)
        assert [each.text for each in embedded_texts(path)] == ["Grandma"]


def test_extended_xmp_of_a_jpeg_is_kept_and_read(tmp_path: Path) -> None:
    extension = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{"long " * 30_000}</rdf:li></rdf:Alt></dc:description>'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()
    segments = b""
    for start in range(0, len(extension), 60_000):
        part = extension[start : start + 60_000]
        body = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32
        body += len(extension).to_bytes(4, "big") + start.to_bytes(4, "big") + part
        segments = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + segments  # the parts in another order
    path = sample("baseline.jpg", tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:2] + segments + data[2:])
    assert embedded_texts(path)[0].text.startswith("long long")
    assert embed(path, "a dog").kept == (DESCRIPTION,)
    assert segments in path.read_bytes()
    with pytest.raises(ImageError, match="extended XMP"):
        embed(path, "a dog", overwrite=True)


def test_a_packet_that_would_be_too_long_for_a_jpeg_is_refused(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    before = path.read_bytes()
    with pytest.raises(ImageError, match="holds XMP of up to 65,"):
        embed(path, "dog " * 20_000)
    assert path.read_bytes() == before


def test_a_jpeg_with_positions_that_would_be_wrong_is_refused(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    exif = Image.Exif()
    exif[270] = "Grandma"
    Image.open(path).save(path, exif=exif)
    path.write_bytes(path.read_bytes() + b"AXS!\1\0\0\0\0\0\0\0")
    refused(path, "AFCP", error=ImageError)
    assert [each.text for each in embedded_texts(path)] == ["Grandma"], "a sidecar must not hide it"


def test_exif_texts_of_people_count_if_xmp_cannot_be_read(tmp_path: Path) -> None:
    path = sample("baseline.jpg", tmp_path)
    exif = Image.Exif()
    exif[270] = "Grandma"
    Image.open(path).save(path, exif=exif, xmp="<x>not RDF</x>".encode("utf-16"))
    refused(path, "its XMP cannot be read: it is encoded as UTF-16", error=ImageError)
    assert [(each.text, each.author) for each in embedded_texts(path)] == [("Grandma", "person")]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_that_is_cut_short_is_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    data = sample(name, tmp_path).read_bytes()
    whole = len(data.rstrip(b"\0"))  # a file may end with padding
    for keep in [0, 1, 3, 8, 11, *(len(data) * part // 20 for part in range(1, 20)), whole - 1]:
        path = tmp_path / f"{keep}_{name}"
        path.write_bytes(data[:keep])
        # Half of a file of two pictures is a whole file of one, with an index that is wrong anyway.
        if name == "two.mpo" and b"\xff\xd9" in data[:keep]:
            continue
        refused(path, error=CaptionerError)
        path.unlink()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_bytes_never_change_the_image(name: str, tmp_path: Path) -> None:
    """A file with wrong bytes is refused, or its compressed image is the same afterwards."""
    source = sample(name, tmp_path)
    embed(source, "a dog")
    data, generator = source.read_bytes(), random.Random(0)
    path = tmp_path / f"damaged_{name}"
    for _ in range(20):
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 1, 4, 20))):
            damaged[generator.randrange(min(len(data), generator.choice((64, 400, len(data)))))] = generator.randrange(
                256
            )
        path.write_bytes(damaged)
        try:
            embed(path, "a cat", overwrite=True)
        except (ImageError, FileError) as error:
            assert str(path) in str(error)
            assert path.read_bytes() == damaged
            continue
        shutil.copy(path, tmp_path / "after")
        path.write_bytes(damaged)
        try:
            expected = compressed(path)
        except Exception:  # the plain reader, or Pillow, cannot read it at all
            continue
        assert compressed(tmp_path / "after") == expected
    assert sorted(each.name for each in tmp_path.iterdir() if each.name.startswith(".")) == []


def test_photos_of_flickr_keep_their_pixels(shared_data: Path, tmp_path: Path) -> None:
    for source in sorted((shared_data / "flickr8k" / "Flicker8k_Dataset").glob("*.jpg"))[:40]:
        path = tmp_path / source.name
        path.write_bytes(source.read_bytes())
        embed(path, {"en": "a photo"})
        assert compressed(path) == compressed(source)
        assert frames(path) == frames(source)
