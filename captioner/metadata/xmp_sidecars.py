"""Captions in XMP files next to images."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from captioner.data.find import PHOTO_EXTENSIONS
from captioner.data.raw import RAW_EXTENSIONS
from captioner.errors import FileError, first_line
from captioner.metadata.authors import Text, attributed, author_of, mark, plan
from captioner.metadata.container import MAX_XMP
from captioner.metadata.embedded import Outcome, by_language, embedded_texts
from captioner.metadata.packet import ALT_TEXT, DESCRIPTION, Packet
from captioner.metadata.rdf import PacketError
from captioner.metadata.sidecar_files import Folders, check_image, read_file, status_of, write_file

SidecarName: TypeAlias = Literal["photo.jpg.xmp", "photo.xmp"]
_FULL: SidecarName = "photo.jpg.xmp"
SIDECAR_NAMES: tuple[SidecarName, ...] = (_FULL, "photo.xmp")
"""The forms of an XMP sidecar's name, by the example of an image ``photo.jpg``."""


class XmpSidecars:
    """Writes captions into XMP files next to the images, and keeps all else that these say.

    A description that a person has put into the image itself counts as well, because programs read the sidecar first.

    Args:
        name: the form of the sidecar's name, one of :data:`SIDECAR_NAMES`; by default ``photo.xmp`` if that is there
            and belongs to no other image, or else ``photo.jpg.xmp``. Next to ``photo.cr2``, it is the raw photo's.
        overwrite: also replace what a person wrote.
    """

    def __init__(self, *, name: SidecarName | None = None, overwrite: bool = False) -> None:
        self._name = name
        self._overwrite = overwrite
        self._folders = Folders()

    def path(self, image: str | Path) -> Path:
        """Return the sidecar of an image."""
        image = Path(image)
        path = _sidecar(image, self._name)
        if self._name is None and path.stem != image.name and self._other(image) is not None:
            return _sidecar(image, _FULL)
        return path

    def write(
        self, image: str | Path, captions: str | Mapping[str, str], *, seen: os.stat_result | None = None
    ) -> Outcome:
        """Write the sidecar of an image.

        Args:
            image: an image file of any kind.
            captions: a caption, or captions by language tag, of which most programs show the first.
            seen: the image's status when it was captioned, to refuse one that has changed since.

        Raises:
            FileError: it is also that of another image, is not XMP, cannot be written, is read-only, a link or has hard
                links, or another program has changed it or the image meanwhile.
            ImageError: there is no such image.
        """
        image = Path(image)
        path = self.path(image)
        wanted = by_language(captions)
        if not wanted:
            return Outcome(path)
        present = status_of(path)
        packet = _packet(path, read_file(path, MAX_XMP + 1) if present is not None else None)
        others = [*embedded_texts(image), *sidecar_texts(image, without=path)]
        decision = plan(packet, wanted, others, overwrite=self._overwrite)
        if decision.texts:
            if path.stem != image.name and (other := self._other(image)) is not None:
                raise FileError(
                    f"{path}: is the sidecar of {other}, and {image.name} cannot share it; rename one of the images, "
                    f"or take sidecars named {_FULL}"
                )
            check_image(image, seen)
            write_file(path, packet.edited(decision.texts, decision.marks), present)
        return Outcome(path, tuple(decision.texts), decision.kept)

    def _other(self, image: Path) -> str | None:
        """Return another image to which a sidecar named ``photo.xmp`` belongs too, or belongs alone if that is raw."""
        with self._folders.lock:
            stems = self._folders[image.parent].stems
            if not stems:
                with suppress(OSError):  # reading the image reports it
                    for name in os.listdir(image.parent):
                        stem, extension = os.path.splitext(name)
                        if extension.lower() in PHOTO_EXTENSIONS:
                            stems.setdefault(stem, []).append(name)
        stem, of_longer = image.stem, os.path.splitext(image.stem)[0]
        others = [name for name in stems.get(stem, []) if not (_is_raw(image.name) and not _is_raw(name))]
        others += [name for name in stems.get(of_longer, []) if name == stem]  # photo.jpg for photo.jpg.webp
        return next((name for name in others if name != image.name and (image.parent / name).exists()), None)


def xmp_file(captions: Mapping[str, str], *, edited: Collection[str] = ()) -> bytes:
    """Return the XMP sidecar of an image without other metadata, as :class:`XmpSidecars` writes it.

    Args:
        captions: by language tag, at least one that is not blank; most programs show the first.
        edited: languages whose caption a person has edited; it is recorded as written by that person.
    """
    packet, wanted = Packet(None), by_language(captions)
    decision = plan(packet, wanted, [], overwrite=False)
    return packet.edited(decision.texts, decision.marks - {mark(wanted[each]) for each in edited if each in wanted})


def texts_of(image: str | Path) -> list[Text]:
    """Return the captions in an image's metadata, inside its file and in its XMP sidecars.

    Raises:
        ImageError: there is no such image.
        FileError: a sidecar cannot be read.
    """
    return attributed([*embedded_texts(image), *sidecar_texts(image)])


def sidecar_texts(image: str | Path, *, without: Path | None = None) -> list[Text]:
    """Return the captions in the XMP sidecars of an image, of both forms of names.

    Args:
        image: the image.
        without: a sidecar to leave out.

    Raises:
        FileError: a sidecar cannot be read.
    """
    found = []
    for path in (_sidecar(Path(image), name) for name in SIDECAR_NAMES):
        if path == without or not os.path.isfile(path):
            continue
        packet = _packet(path, read_file(path, MAX_XMP + 1))
        found += [
            Text(its_field, language, text, path.name, author_of(text, packet.marks))
            for its_field in (DESCRIPTION, ALT_TEXT)
            for language, text in packet.items(its_field)
            if text.strip()
        ]
    return found


def _is_raw(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in RAW_EXTENSIONS


def _sidecar(image: Path, name: SidecarName | None) -> Path:
    full, short = image.with_name(f"{image.name}.xmp"), image.with_suffix(".xmp")
    if name is None:
        return short if os.path.exists(short) and not os.path.exists(full) else full
    return short if name == "photo.xmp" else full


def _packet(path: Path, data: bytes | None) -> Packet:
    if data is not None and not data.strip(b"\0 \t\r\n"):
        data = None
    try:
        if data is not None and len(data) > MAX_XMP:
            raise PacketError(f"it has more than {MAX_XMP:,} bytes")
        return Packet(data)
    except PacketError as error:
        raise FileError(f"{path}: cannot be read as XMP: {first_line(error)}; repair it, or move it away") from None
