"""Captions in text files next to images."""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from captioner import files
from captioner.data.find import PHOTO_EXTENSIONS
from captioner.errors import ConfigError, FileError
from captioner.metadata.authors import Text, mark
from captioner.metadata.embedded import Outcome
from captioner.metadata.packet import DEFAULT
from captioner.metadata.sidecar_files import Folder, Folders, check_image, read_file, status_of, write_file

RECORD = ".captioner-sidecars.jsonl"
"""The file in a folder that lists the text sidecars which this program has written there, with marks of their texts."""

TEXT = "text"
"""The field of :class:`~captioner.metadata.embedded.Outcome` that a text sidecar has."""

_TAKEN = PHOTO_EXTENSIONS | {".xmp", ".aae"}  # photo software reads other things there
_MAX_TEXT = 1 << 20  # a longer text file is not a caption of this program


class TextSidecars:
    """Writes captions into text files next to the images, as programs that train on images read them.

    A text file has no place for a mark, so a hidden file in each folder, :data:`RECORD`, has a line for each sidecar
    written there: a text that does not match it is a person's. A sidecar that is moved without the record counts as a
    person's, too.

    Args:
        extension: of the sidecars, for example ``.txt`` or ``.caption``; it replaces that of the image.
        prefix: comes before each caption.
        suffix: comes after it.
        overwrite: also replace what a person wrote.
    """

    def __init__(self, *, extension: str = ".txt", prefix: str = "", suffix: str = "", overwrite: bool = False) -> None:
        self._extension = "." + extension.removeprefix(".")
        if not re.fullmatch(r"(\.[\w-]+)+", self._extension) or self._extension.lower() in _TAKEN:
            raise ConfigError(f"{extension!r} is not the extension of a text file; give one such as .txt or .caption")
        self._prefix, self._suffix, self._overwrite = prefix, suffix, overwrite
        self._folders = Folders()

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
        present = status_of(path)
        written = read_file(path, _MAX_TEXT) if present is not None else b""
        with self._folders.lock:
            folder = self._folders[path.parent]
            _read_record(path.parent, folder)
        if written.strip():
            old = written.decode("utf-8-sig", "replace").strip()
            if old == text:
                return Outcome(path)
            if not self._overwrite and mark(old) not in folder.marks:
                return Outcome(path, kept=(TEXT,))
        self._folders.claim(path, image)
        check_image(image, seen)
        files.check_place(path)
        # The record comes first: a run that is killed in between leaves a line without a text, which does no harm.
        self._append_record(path, image, mark(text))
        write_file(path, text_file(text), present)
        return Outcome(path, (TEXT,))

    def _append_record(self, sidecar: Path, image: Path, its_mark: str) -> None:
        record = sidecar.parent / RECORD
        line = json.dumps({"sidecar": sidecar.name, "image": image.name, "mark": its_mark})
        files.check_place(record)
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


def _read_record(path: Path, folder: Folder) -> None:
    """Read the new lines of a folder's record; damaged lines are passed over."""
    try:
        if not (path / RECORD).is_file():  # opening a pipe would wait for a writer
            return
        with open(path / RECORD, "rb") as file:
            file.seek(folder.end)
            lines = file.read()
    except OSError:
        return
    whole = lines[: lines.rfind(b"\n") + 1]
    folder.end += len(whole)
    for line in whole.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            folder.images[str(entry["sidecar"])] = str(entry["image"])
            folder.marks.add(str(entry["mark"]))


def text_file(caption: str) -> bytes:
    """Return the text sidecar of an image, as :class:`TextSidecars` writes it."""
    return f"{_line(caption)}\n".encode()


def text_sidecar(image: str | Path, *, extension: str = ".txt") -> Text | None:
    """Return the text in the text sidecar of an image, with its author; ``None`` without one, or if it is blank.

    Raises:
        FileError: it cannot be read.
    """
    path = Path(image).with_suffix(extension)
    status = status_of(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    text = read_file(path, _MAX_TEXT).decode("utf-8-sig", "replace").strip()
    record = status_of(path.parent / RECORD)
    marks = _marks(path.parent, record.st_size, record.st_mtime_ns) if record is not None else frozenset[str]()
    return Text(TEXT, DEFAULT, text, path.name, "captioner" if mark(text) in marks else "person") if text else None


@lru_cache(maxsize=8)
def _marks(path: Path, *status: int) -> frozenset[str]:
    """Return the marks in a folder's record; they are read again when its size and time, ``status``, change."""
    _read_record(path, folder := Folder())
    return frozenset(folder.marks)


def _line(text: str) -> str:
    return " ".join(text.split())
