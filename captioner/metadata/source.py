"""Reading a file by positions, within its bounds."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO

from captioner.errors import ImageError


class Source:
    """An open image file, or a part of one.

    Attributes:
        name: the file's name, for errors.
        size: its size in bytes.
    """

    def __init__(self, file: IO[bytes], name: str | Path) -> None:
        self.name = name
        self.size = file.seek(0, os.SEEK_END)
        self._file = file

    @classmethod
    def of_bytes(cls, data: bytes, name: str | Path) -> Source:
        """Make a source of bytes in memory."""
        return cls(io.BytesIO(data), name)

    def read(self, start: int, count: int) -> bytes:
        """Return ``count`` bytes from position ``start``.

        Raises:
            ImageError: they lie beyond the end of the file.
        """
        if start + count > self.size:
            raise self.fault("the file is cut short")
        try:
            self._file.seek(start)
            data = self._file.read(count)
        except OSError as error:
            raise self.fault(f"cannot be read ({error.strerror})") from error
        if len(data) != count:  # another program has shortened it
            raise self.fault("the file is cut short")
        return data

    def find(self, wanted: bytes, start: int) -> int:
        """Return the position of ``wanted`` at or after ``start``, or -1."""
        overlap = len(wanted) - 1
        while start + len(wanted) <= self.size:
            block = self.read(start, min(1 << 20, self.size - start))
            at = block.find(wanted)
            if at >= 0:
                return start + at
            start += len(block) - overlap
        return -1

    def fault(self, reason: str, advice: str = "copy it again, or write an XMP sidecar") -> ImageError:
        """Return the error of a file that is damaged, or cannot hold the caption."""
        return ImageError(self.name, f"{reason}; {advice}")
