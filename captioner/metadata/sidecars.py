"""Captions beside image files: as text, and as XMP."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

from captioner import files
from captioner.data.find import IMAGE_EXTENSIONS
from captioner.errors import ConfigError, FileError, first_line
from captioner.metadata.authors import Text, attributed, author_of, mark, plan
from captioner.metadata.container import MOST_XMP
from captioner.metadata.embedded import Outcome, by_language, check_unchanged, embedded_texts
from captioner.metadata.packet import ALT_TEXT, DEFAULT, DESCRIPTION, Packet, PacketError

SidecarName: TypeAlias = Literal["photo.jpg.xmp", "photo.xmp"]
SIDECAR_NAMES: tuple[SidecarName, ...] = ("photo.jpg.xmp", "photo.xmp")
"""The forms of an XMP sidecar's name, by the example of an image ``photo.jpg``."""

RECORD = ".captioner-sidecars.jsonl"
"""The file in a folder that lists the text sidecars which this program has written there, with marks of their texts."""

TEXT = "text"
"""The field of :class:`~captioner.metadata.embedded.Outcome` that a text sidecar has."""

_MOST_TEXT = 1 << 20  # a longer text file is not a caption of this program
_MOST_FOLDERS = 8


@dataclass
class _Folder:
    """What is known of the sidecars of one folder.

    Attributes:
        images: names of images by those of their sidecars.
        marks: of the texts that this program has written.
        end: how much of the record has been read, in bytes.
    """

    images: dict[str, str] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)
    end: int = 0


class _Folders:
    """The folders of the last sidecars; several threads may ask for them."""

    def __init__(self) -> None:
        self._folders: dict[Path, _Folder] = {}
        self.lock = threading.RLock()

    def __getitem__(self, path: Path) -> _Folder:
        with self.lock:
            folder = self._folders.pop(path, None) or _Folder()
            if len(self._folders) >= _MOST_FOLDERS:
                del self._folders[next(iter(self._folders))]
            self._folders[path] = folder
            return folder

    def claim(self, sidecar: Path, image: Path) -> None:
        """Note whose a sidecar is.

        Raises:
            FileError: it is that of another image, which exists.
        """
        with self.lock:
            images = self[sidecar.parent].images
            other = images.setdefault(sidecar.name, image.name)
        if other != image.name and (sidecar.parent / other).exists():
            raise FileError(
                f"{sidecar}: is the sidecar of {other}, and {image.name} cannot share it; rename one of the images"
            )
        images[sidecar.name] = image.name


class TextSidecars:
    """Writes captions into text files beside the images, as programs that train on images read them.

    A text file has no place for a mark. A hidden file in each folder, :data:`RECORD`, has therefore a line for each
    sidecar written there: what does not match it is a person's. A sidecar that is moved without the record is a
    person's, too.

    Args:
        extension: of the sidecars, for example ``.txt`` or ``.caption``; it replaces that of the image.
        prefix: comes before each caption.
        suffix: comes after it.
        overwrite: also replace what a person wrote.
    """

    def __init__(self, *, extension: str = ".txt", prefix: str = "", suffix: str = "", overwrite: bool = False) -> None:
        self._extension = "." + extension.removeprefix(".")
        if self._extension.lower() in IMAGE_EXTENSIONS or not self._extension.strip("."):
            raise ConfigError(f"{extension!r} is no extension of a text file; give one such as .txt or .caption")
        self._prefix, self._suffix, self._overwrite = prefix, suffix, overwrite
        self._folders = _Folders()

    def path(self, image: str | Path) -> Path:
        """Return the sidecar of an image."""
        return Path(image).with_suffix(self._extension)

    def write(self, image: str | Path, caption: str, *, seen: os.stat_result | None = None) -> Outcome:
        """Write the sidecar of an image, unless the caption is blank.

        Args:
            image: an image file of any kind.
            caption: its caption.
            seen: the image's status when it was captioned, to refuse one that has changed since.

        Raises:
            FileError: it is also that of another image, cannot be written, is read-only, a link or has hard links, or
                another program has changed it or the image meanwhile.
        """
        image = Path(image)
        path = self.path(image)
        if path == image:
            raise FileError(f"{path}: its sidecar would replace it; give another extension")
        if not caption.strip():
            return Outcome(path)
        text = _line(f"{self._prefix}{caption}{self._suffix}")
        present = _status(path)
        written = _read(path, _MOST_TEXT) if present is not None else b""
        with self._folders.lock:
            self._read_record(path.parent)
            marks = self._folders[path.parent].marks
        if written.strip():
            old = written.decode("utf-8-sig", "replace").strip()
            if old == text:
                return Outcome(path)
            if not self._overwrite and mark(old) not in marks:
                return Outcome(path, kept=(TEXT,))
        self._folders.claim(path, image)
        _check_image(image, seen)
        # The record comes first: a run that is killed in between leaves a line without a text, which does no harm.
        self._append_record(path, image, mark(text))
        _write(path, text_file(text), present)
        return Outcome(path, (TEXT,))

    def _read_record(self, folder: Path) -> None:
        """Read the new lines of a folder's record; damaged lines are passed over."""
        known = self._folders[folder]
        try:
            with open(folder / RECORD, "rb") as file:
                file.seek(known.end)
                lines = file.read()
        except OSError:
            return
        whole = lines[: lines.rfind(b"\n") + 1]
        known.end += len(whole)
        for line in whole.splitlines():
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                known.images[str(entry["sidecar"])] = str(entry["image"])
                known.marks.add(str(entry["mark"]))

    def _append_record(self, sidecar: Path, image: Path, its_mark: str) -> None:
        record = sidecar.parent / RECORD
        line = json.dumps({"sidecar": sidecar.name, "image": image.name, "mark": its_mark})
        with self._folders.lock, files.writing(record):
            try:
                with open(record, "ab+") as file:
                    if file.tell():
                        file.seek(-1, os.SEEK_END)
                        if file.read(1) != b"\n":  # a run was killed while it wrote
                            line = f"\n{line}"
                    file.write(f"{line}\n".encode("ascii"))
            except PermissionError as error:
                raise FileError(f"{record}: cannot be written ({error.strerror}); change its permissions") from error


class XmpSidecars:
    """Writes captions into XMP files beside the images, and keeps all else that these say.

    A description that a person has put into the image itself counts as well, because programs read the sidecar first.

    Args:
        name: the form of the sidecar's name, one of :data:`SIDECAR_NAMES`; by default that of the sidecar which the
            image has, or else ``photo.jpg.xmp``.
        overwrite: also replace what a person wrote.
    """

    def __init__(self, *, name: SidecarName | None = None, overwrite: bool = False) -> None:
        self._name = name
        self._overwrite = overwrite
        self._folders = _Folders()

    def path(self, image: str | Path) -> Path:
        """Return the sidecar of an image."""
        return _sidecar(Path(image), self._name)

    def write(
        self, image: str | Path, captions: str | Mapping[str, str], *, seen: os.stat_result | None = None
    ) -> Outcome:
        """Write the sidecar of an image.

        Args:
            image: an image file of any kind.
            captions: a caption, or captions by language tag, of which most programs show the first.
            seen: the image's status when it was captioned, to refuse one that has changed since.

        Raises:
            FileError: it is also that of another image, is damaged, cannot be written, is read-only, a link or has hard
                links, or another program has changed it or the image meanwhile.
            ImageError: there is no such image.
        """
        image = Path(image)
        path = self.path(image)
        wanted = by_language(captions)
        if not wanted:
            return Outcome(path)
        present = _status(path)
        packet = _packet(path, _read(path, MOST_XMP + 1) if present is not None else None)
        others = [*embedded_texts(image), *sidecar_texts(image, without=path)]
        decision = plan(packet, wanted, others, overwrite=self._overwrite)
        if decision.texts:
            self._folders.claim(path, image)
            _check_image(image, seen)
            _write(path, packet.edited(decision.texts, decision.marks), present)
        return Outcome(path, tuple(decision.texts), decision.kept)


def text_file(caption: str) -> bytes:
    """Return the text sidecar of an image, as :class:`TextSidecars` writes it."""
    return f"{_line(caption)}\n".encode()


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
        FileError: a sidecar is damaged.
    """
    return attributed([*embedded_texts(image), *sidecar_texts(image)])


def text_sidecar(image: str | Path, *, extension: str = ".txt") -> Text | None:
    """Return the text in the text sidecar of an image, with its author; ``None`` without one, or if it is blank.

    Raises:
        FileError: it cannot be read.
    """
    path = Path(image).with_suffix(extension)
    status = _status(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    text = _read(path, _MOST_TEXT).decode("utf-8-sig", "replace").strip()
    record = _status(path.parent / RECORD)
    marks = _marks(path.parent, record.st_size, record.st_mtime_ns) if record is not None else frozenset[str]()
    return Text(TEXT, DEFAULT, text, path.name, "captioner" if mark(text) in marks else "person") if text else None


@lru_cache(maxsize=8)
def _marks(folder: Path, *status: int) -> frozenset[str]:
    """Return the marks in a folder's record; its status makes another one of it when it changes."""
    sidecars = TextSidecars()
    sidecars._read_record(folder)
    return frozenset(sidecars._folders[folder].marks)


def sidecar_texts(image: str | Path, *, without: Path | None = None) -> list[Text]:
    """Return the captions in the XMP sidecars of an image, of both forms of names.

    Args:
        image: the image.
        without: a sidecar to leave out.

    Raises:
        FileError: a sidecar is damaged.
    """
    found = []
    for path in (_sidecar(Path(image), name) for name in SIDECAR_NAMES):
        if path == without or not path.is_file():
            continue
        packet = _packet(path, _read(path, MOST_XMP + 1))
        found += [
            Text(its_field, language, text, path.name, author_of(text, packet.marks))
            for its_field in (DESCRIPTION, ALT_TEXT)
            for language, text in packet.items(its_field)
            if text.strip()
        ]
    return found


def _line(text: str) -> str:
    return " ".join(text.split())


def _sidecar(image: Path, name: SidecarName | None) -> Path:
    full, short = image.with_name(f"{image.name}.xmp"), image.with_suffix(".xmp")
    if name is None:
        return short if short.exists() and not full.exists() else full
    return short if name == "photo.xmp" else full


def _status(path: Path) -> os.stat_result | None:
    """Return the status of a sidecar, or ``None`` if there is none."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{path}: cannot be read ({reason})") from error


def _check_image(image: Path, seen: os.stat_result | None) -> None:
    """Check that an image is still the one that was captioned, if its status then is known.

    Raises:
        FileError: it has changed or is gone.
    """
    if seen is not None:
        try:
            check_unchanged(image, image.stat(), seen)
        except OSError as error:
            raise FileError(f"{image}: cannot be found again ({error.strerror}); run this again") from error


def _read(path: Path, most: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); change its permissions") from error


def _packet(path: Path, data: bytes | None) -> Packet:
    if data is not None and not data.strip(b"\0 \t\r\n"):
        data = None
    try:
        if data is not None and len(data) > MOST_XMP:
            raise PacketError(f"it has more than {MOST_XMP:,} bytes")
        return Packet(data)
    except PacketError as error:
        raise FileError(f"{path}: is a damaged XMP sidecar: {first_line(error)}; repair or remove it") from None


def _write(path: Path, data: bytes, seen: os.stat_result | None) -> None:
    """Write a sidecar that was as ``seen``, or was not there.

    Raises:
        FileError: it cannot be written, or another program has changed it meanwhile.
    """
    if seen is not None:
        with files.atomic_edit(path, seen, keep_times=False, size=len(data)) as temporary:
            temporary.write_bytes(data)
        return
    with files.atomic_path(path, size=len(data)) as temporary:
        temporary.write_bytes(data)
        if os.path.islink(path):
            raise FileError(f"{path}: is a link to {os.path.realpath(path)}, which does not exist; remove it")
        if path.exists():
            raise FileError(f"{path}: another program has written it meanwhile, so it was left alone; run this again")
