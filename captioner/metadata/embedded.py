"""Captions inside image files: reads them from any kind, and writes them into JPEG, PNG, WebP and TIFF."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from captioner import files
from captioner.errors import FileError, ImageError, first_line
from captioner.metadata.authors import Text, author_of, plan
from captioner.metadata.container import MAX_XMP, Container, Piece
from captioner.metadata.jpeg import Jpeg
from captioner.metadata.others import Other
from captioner.metadata.packet import ALT_TEXT, DEFAULT, DESCRIPTION, Packet, without_controls
from captioner.metadata.png import Png
from captioner.metadata.rdf import PacketError
from captioner.metadata.source import Source
from captioner.metadata.tiff import Tiff
from captioner.metadata.webp import WebP

_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_EXTENSIONS = (".tif", ".tiff", ".btf", ".tf8")  # raw photos are TIFFs too, by other names
_OTHERS = (  # (offset, bytes there, name)
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftypcrx", "raw photos"),
    (4, b"ftyp", "HEIC"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
)


@dataclass(frozen=True)
class Outcome:
    """The result of writing a caption.

    Attributes:
        path: the file that holds it, or would.
        written: the fields that were written; empty if they already had the caption.
        kept: the fields that a person has filled and that stayed.
    """

    path: Path
    written: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def embed(
    image: str | Path,
    captions: str | Mapping[str, str],
    *,
    seen: os.stat_result | None = None,
    sidecars: list[Text] | None = None,
    overwrite: bool = False,
) -> Outcome:
    """Write captions into an image file as XMP: dc:description and IPTC's text for people who do not see the image.

    The compressed image stays byte for byte the same; that is compared before the new file replaces the old one. The
    file keeps its times, permissions, owner and extended attributes. Threads may embed at once: four write 3 to 4 times
    as many images per second as one, since each waits for the disk.

    Args:
        image: a JPEG, PNG, WebP or TIFF file.
        captions: a caption, or captions by language tag, of which most programs show the first.
        seen: the file's status when it was captioned, to refuse one that has changed since.
        sidecars: the texts of its sidecars (:func:`captioner.metadata.xmp_sidecars.sidecar_texts`); a person's counts
            like one in the file.
        overwrite: also replace what a person wrote.

    Raises:
        ImageError: the image or its XMP is missing or damaged.
        FileError: it is of another kind, read-only, a link or has hard links, another program has changed it meanwhile,
            or the disk is full.
    """
    path = Path(image)
    wanted = by_language(captions)
    if not wanted:
        return Outcome(path)
    with open_image(path) as file:
        opened = os.fstat(file.fileno())
        check_unchanged(path, opened, seen)
        source = Source(file, path)
        container = open_container(source)
        if container is None or (isinstance(container, Tiff) and not _takes_xmp(container, path)):
            raise FileError(
                f"{path}: XMP can be put into JPEG, PNG, WebP and TIFF files, not into {_kind(source)}; "
                "write an XMP sidecar"
            )
        if container.refusal is not None:
            raise container.refusal
        packet = _packet(container.packet, source)
        others = [*_texts_outside_packet(container, packet.marks, path.name), *(sidecars or [])]
        decision = plan(packet, wanted, others, overwrite=overwrite)
        outcome = Outcome(path, tuple(decision.texts), decision.kept)
        if not decision.texts:
            return outcome
        if overwrite and any(_extended_texts(container, field) for field in decision.texts):
            raise source.fault("its caption lies in extended XMP, which is not edited", "write an XMP sidecar")
        new = packet.edited(decision.texts, decision.marks)
        pieces = container.with_packet(new)
        size = sum(map(len, pieces))
        with files.atomic_edit(path, opened, keep_times=True, size=size) as temporary:
            with open(temporary, "wb") as target:
                _copy(pieces, file, target)
            _check_copy(container, new, decision.texts, temporary)
            file.close()  # Windows replaces no open file
    return outcome


def embedded_texts(image: str | Path) -> list[Text]:
    """Return the captions inside an image file of any kind: its XMP, EXIF's and IPTC's descriptions, PNG's Description.

    Metadata that cannot be read counts as empty.

    Raises:
        ImageError: there is no such file.
    """
    path = Path(image)
    with open_image(path) as file:
        try:
            container = open_container(Source(file, path)) or Other(Source(file, path), path)
        except ImageError:
            return []
        try:
            packet = Packet(container.packet)
        except PacketError:
            packet = Packet(None)
        found = [(field, *item) for field in (DESCRIPTION, ALT_TEXT) for item in packet.items(field)]
        texts = [
            Text(field, language, text, path.name, author_of(text, packet.marks))
            for field, language, text in found
            if text.strip()
        ]
        return texts + _texts_outside_packet(container, packet.marks, path.name)


def by_language(captions: str | Mapping[str, str]) -> dict[str, str]:
    """Return captions by language tag, without blank ones."""
    texts = {DEFAULT: captions} if isinstance(captions, str) else captions
    lines = {language: " ".join(without_controls(text).split()) for language, text in texts.items()}
    return {language: line for language, line in lines.items() if line}


def check_unchanged(image: Path, status: os.stat_result, seen: os.stat_result | None) -> None:
    """Check that an image has not changed since it was captioned.

    Args:
        image: its file.
        status: of the file now.
        seen: its status when it was captioned, if known.

    Raises:
        FileError: it has changed.
    """
    if seen is not None and not files.same_file(status, seen):
        raise FileError(f"{image}: another program has changed it since it was captioned; run this again")


def open_image(path: Path) -> IO[bytes]:
    """Open an image file for reading.

    Raises:
        ImageError: it is missing, not a regular file, or cannot be read.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            missing = not os.path.lexists(path)
            raise ImageError(
                path, "there is no such file; check the name" if missing else "is not a file; give an image file"
            )
        return open(path, "rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(path, f"cannot be read ({reason}); change its permissions") from error


def open_container(source: Source) -> Container | None:
    """Parse an image file; return ``None`` for a kind that is not supported.

    Raises:
        ImageError: it is damaged or empty.
    """
    head = source.read(0, min(16, source.size))
    if not head:
        raise source.fault("there are no bytes in it")
    if head.startswith(b"\xff\xd8\xff"):
        return Jpeg(source)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Png(source)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebP(source)
    if head[:4] in _TIFF_HEADS:
        return Tiff(source)
    return None


def _takes_xmp(tiff: Tiff, path: Path) -> bool:
    return path.suffix.lower() in _TIFF_EXTENSIONS and not tiff.is_dng


def _kind(source: Source) -> str:
    head = source.read(0, min(16, source.size))
    if head[:4] in _TIFF_HEADS:
        return "raw photos, which are TIFFs by another name"
    return next((name for start, magic, name in _OTHERS if head.startswith(magic, start)), "files like this")


def _packet(data: bytes | None, source: Source) -> Packet:
    try:
        if data is not None and len(data) > MAX_XMP:
            raise PacketError(f"it has more than {MAX_XMP:,} bytes")
        return Packet(data)
    except PacketError as error:
        advice = "repair it, for example with exiftool, or write an XMP sidecar"
        raise source.fault(f"its XMP cannot be read: {first_line(error)}", advice) from None


def _extended_texts(container: Container, field: str) -> list[tuple[str, str]]:
    """Return the texts of a field in XMP outside the packet; damaged XMP has none that any program could read."""
    found = []
    for packet in container.extended:
        with suppress(PacketError):
            found += [item for item in Packet(packet).items(field) if item[1].strip()]
    return found


def _texts_outside_packet(container: Container, marks: frozenset[str], place: str) -> list[Text]:
    """Return the captions of a file that are not in its packet."""
    found = [(DESCRIPTION, DEFAULT, text) for text in container.descriptions]
    found += [(field, *item) for field in (DESCRIPTION, ALT_TEXT) for item in _extended_texts(container, field)]
    return [
        Text(field, language, text, place, author_of(text, marks)) for field, language, text in found if text.strip()
    ]


def _copy(pieces: list[Piece], source: IO[bytes], target: IO[bytes]) -> None:
    for piece in pieces:
        if isinstance(piece, bytes):
            target.write(piece)
            continue
        source.seek(piece.start)
        left = len(piece)
        while left:
            block = source.read(min(left, 1 << 20))
            if not block:
                return  # another program has shortened the file, which the check of the copy finds
            target.write(block)
            left -= len(block)


def _check_copy(old: Container, packet: bytes, texts: Mapping[str, Mapping[str, str]], temporary: Path) -> None:
    """Check that a new file has the same compressed image as the old one, and the new captions.

    Raises:
        FileError: it has not.
    """
    path = old.source.name
    try:
        with open(temporary, "rb") as file:
            new = open_container(Source(file, path))
            same = new is not None and new.packet == packet and _same_image(old, new)
            found = Packet(packet)
            same = same and all(
                found.alternatives(field).get(language.lower()) == text
                for field, by_tag in texts.items()
                for language, text in by_tag.items()
            )
    except (ImageError, PacketError) as error:
        raise FileError(f"{path}: the new file is damaged ({error}), so the old one was left alone") from None
    if not same:
        raise FileError(f"{path}: the new file would differ in more than the caption, so the old one was left alone")


def _same_image(old: Container, new: Container) -> bool:
    if [len(each) for each in old.pixels] != [len(each) for each in new.pixels]:
        return False
    for before, after in zip(old.pixels, new.pixels, strict=True):
        for start in range(0, len(before), 1 << 20):
            count = min(len(before) - start, 1 << 20)
            if old.source.read(before.start + start, count) != new.source.read(after.start + start, count):
                return False
    return True
