"""What a benchmark has found so far, kept in the folder ``cache`` of its output, so that an interrupted one goes on where it was.

``captions-KEY.json`` has the captions of one model, ``timings-KEY.json`` the timings of all models together, which are
measured in turns. KEY is a hash of all that the content depends on, and the file repeats it in full: another model,
search setting or device has another file. A caption is used again only while the photo's file has the same size and
date. Files appear whole or not at all; one that cannot be read counts as missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from captioner import files
from captioner.data.dataset import Photo

FORMAT = 1
Key: TypeAlias = Mapping[str, Any]


class Store:
    """Keeps captions and timings in a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def clear(self) -> None:
        """Forget everything."""
        for pattern in ("captions-*.json", "timings-*.json", ".*.tmp"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def captions(self, key: Key, photos: Mapping[str, Photo]) -> dict[str, str]:
        """Return the captions, by image id, of those photos whose files are as they were."""
        kept = self._read("captions", key)
        if not isinstance(kept, dict):
            return {}
        return {
            image: kept[image]["caption"]
            for image, photo in photos.items()
            if image in kept and kept[image]["file"] == stamp(photo.path)
        }

    def keep_captions(self, key: Key, captions: Mapping[str, str], photos: Mapping[str, Photo]) -> None:
        """Keep captions, by image id; those kept before under this key are replaced."""
        content = {
            image: {"caption": caption, "file": stamp(photos[image].path)} for image, caption in captions.items()
        }
        self._write("captions", key, content)

    def timings(self, key: Key) -> Any:
        """Return what :meth:`keep_timings` was given, or ``None``."""
        return self._read("timings", key)

    def keep_timings(self, key: Key, content: Any) -> None:
        """Keep timings as plain values."""
        self._write("timings", key, content)

    def _read(self, kind: str, key: Key) -> Any:
        # A file that was damaged from outside is no reason to stop: what it held is made again.
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(self._path(kind, key).read_text(encoding="utf-8"))
            if record["format"] == FORMAT and record["key"] == json.loads(json.dumps(key)):
                return record["content"]
        return None

    def _write(self, kind: str, key: Key, content: Any) -> None:
        # Escaped: an image id is a file's name, which may hold any bytes.
        files.write_text(self._path(kind, key), json.dumps({"format": FORMAT, "key": key, "content": content}) + "\n")

    def _path(self, kind: str, key: Key) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{kind}-{digest[:16]}.json"


def stamp(path: Path) -> list[int] | None:
    """Return a file's size in bytes and its date in nanoseconds, ``None`` if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
