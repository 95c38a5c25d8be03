"""Files and bytes that can be read only so many times.

Decoders read the parts of a header one by one, some of them byte by byte, in Python. A small file may hold millions of
such parts: 20 MB of fill bytes in a JPEG took 16 s. A limit on the number of reads bounds that for every format.
"""

from __future__ import annotations

import io

from captioner.errors import ImageError

_READS = 100_000  # a photo takes some 50
_BYTES_A_READ = 256  # beyond that; a PNG in chunks of 8 kB takes a read for each 2000 bytes


class _Counted:
    """Counts the reads of a stream; ``name`` is what the error calls the image."""

    def _allow(self, name: str, size: int) -> None:
        self._name = name
        self._left = _READS + size // _BYTES_A_READ

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ImageError(self._name, "it consists of too many tiny parts; save it again as PNG or JPEG")


class CountedFile(_Counted, io.BufferedReader):
    """A file on the disk, opened for reading."""

    def __init__(self, path: str, name: str, size: int) -> None:
        super().__init__(open(path, "rb", buffering=0))  # noqa: SIM115
        self._allow(name, size)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all."""
        self._count()
        return super().read(size)


class CountedBytes(_Counted, io.BytesIO):
    """An encoded image in memory."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._allow(name, len(content))

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all."""
        self._count()
        return super().read(size)
