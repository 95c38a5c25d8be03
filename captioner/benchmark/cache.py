"""The cache of a benchmark in the folder ``cache`` of its output, from which an interrupted benchmark resumes.

``captions-KEY.json`` has the captions of one model, ``timings-KEY.json`` the timings of all models, which are measured
in turns. KEY is a hash of everything that the content depends on, such as the model, search settings and device; the
file repeats it in full. A caption is reused while the size and modification time of its image file are unchanged. Files
are written atomically; an unreadable file counts as missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from captioner import files
from captioner.data.dataset import CaptionedImage
from captioner.data.packed import containing_file
from captioner.errors import EvaluationError

FORMAT = 3
Key: TypeAlias = Mapping[str, Any]


class BenchmarkCache:
    """Cache of captions and timings in a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        files.remove_leftovers(self.folder)

    def clear(self) -> None:
        """Delete all cached captions and timings."""
        for pattern in ("captions-*.json", "timings-*.json"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def captions(self, key: Key, images: Mapping[str, CaptionedImage]) -> dict[str, str]:
        """Return the cached captions of unchanged images, by image id."""
        cached = self._read("captions", key)
        if not isinstance(cached, dict):
            return {}
        return {
            image_id: cached[image_id]["caption"]
            for image_id, image in images.items()
            if image_id in cached and cached[image_id]["file"] == stamp(image.path)
        }

    def save_captions(self, key: Key, captions: Mapping[str, str], images: Mapping[str, CaptionedImage]) -> None:
        """Save captions by image id, replacing earlier ones under this key."""
        content = {
            image_id: {"caption": caption, "file": stamp(images[image_id].path)}
            for image_id, caption in captions.items()
        }
        self._write("captions", key, content)

    def timings(self, key: Key) -> Any:
        """Return the content given to :meth:`save_timings`, or ``None``."""
        return self._read("timings", key)

    def save_timings(self, key: Key, content: Any) -> None:
        """Save timings as plain values."""
        self._write("timings", key, content)

    def _read(self, kind: str, key: Key) -> Any:
        # The content of a damaged file is computed again.
        with suppress(EvaluationError):
            record = files.read_json(self._path(kind, key), dict, error=EvaluationError, max_bytes=None)
            content = record.get("content")
            if record == json.loads(json.dumps(_record(key, content))):
                return content
        return None

    def _write(self, kind: str, key: Key, content: Any) -> None:
        # With JSON's escapes: an image id may be a file name with arbitrary bytes.
        files.write_text(self._path(kind, key), json.dumps(_record(key, content)) + "\n")

    def _path(self, kind: str, key: Key) -> Path:
        return self.folder / f"{kind}-{hash_of(key)[:16]}.json"


def _record(key: Key, content: Any) -> dict[str, Any]:
    """Return the record of a file; its hash reveals damage."""
    return {"format": FORMAT, "key": key, "content": content, "hash": hash_of(content)}


def hash_of(value: Any) -> str:
    """Return a hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return files.sha256(file)


def stamp(path: Path) -> list[int] | None:
    """Return the size in bytes and the modification time in nanoseconds of an image's file; ``None`` if it is missing.

    That of an image inside a tar or Parquet file is the whole file.
    """
    try:
        status = containing_file(path).stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
