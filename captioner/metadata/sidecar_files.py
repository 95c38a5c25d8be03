"""The files next to images: which image each belongs to, and how they are read and replaced."""

from __future__ import annotations

import errno
import os
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path

from captioner import files
from captioner.errors import FileError
from captioner.metadata.embedded import check_unchanged

_MAX_FOLDERS = 8


@dataclass
class Folder:
    """The sidecars of one folder.

    Attributes:
        images: the name of the image of each sidecar, by the name of the sidecar; of text sidecars only.
        marks: of the texts that this program has written; of text sidecars only.
        end: bytes of the record that have been read; of text sidecars only.
        stems: the names of the images by their names without extension; of XMP sidecars only.
    """

    images: dict[str, str] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)
    end: int = 0
    stems: dict[str, list[str]] = field(default_factory=dict)


class Folders:
    """The folders of the last sidecars, for several threads."""

    def __init__(self) -> None:
        self._folders: dict[Path, Folder] = {}
        self.lock = threading.RLock()

    def __getitem__(self, path: Path) -> Folder:
        with self.lock:
            folder = self._folders.pop(path, None) or Folder()
            if len(self._folders) >= _MAX_FOLDERS:
                del self._folders[next(iter(self._folders))]
            self._folders[path] = folder
            return folder

    def claim(self, sidecar: Path, image: Path) -> None:
        """Record that a sidecar belongs to an image.

        Raises:
            FileError: it belongs to another image, which exists.
        """
        with self.lock:
            images = self[sidecar.parent].images
            other = images.setdefault(sidecar.name, image.name)
        if other != image.name and (sidecar.parent / other).exists():
            raise FileError(
                f"{sidecar}: is the sidecar of {other}, and {image.name} cannot share it; rename one of the images"
            )
        images[sidecar.name] = image.name


def status_of(path: Path) -> os.stat_result | None:
    """Return the status of a sidecar, or ``None`` if there is none, or no file can have its name.

    Raises:
        FileError: its folder cannot be read.
    """
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            return None
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{path}: cannot be read ({reason}); change the permissions of its folder") from error


def check_image(image: Path, seen: os.stat_result | None) -> None:
    """Check that an image has not changed since it was captioned, if its status then is known.

    Raises:
        FileError: it has changed or is gone.
    """
    if seen is not None:
        try:
            check_unchanged(image, image.stat(), seen)
        except OSError as error:
            raise FileError(f"{image}: cannot be found again ({error.strerror}); run this again") from error


def read_file(path: Path, most: int) -> bytes:
    """Return the first ``most`` bytes of a sidecar.

    Raises:
        FileError: it cannot be read, or is not a regular file.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise FileError(f"{path}: is not a file, and stands where the sidecar belongs; move it away")
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); change its permissions") from error


def write_file(path: Path, data: bytes, seen: os.stat_result | None) -> None:
    """Write a sidecar, if it still has the status ``seen``, or is still missing if that is ``None``.

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
