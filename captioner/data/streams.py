"""Files and bytes with a limit on the number of reads.

Decoders read the parts of a header one by one in Python, some of them byte by byte. A small file may hold millions of
parts: 20 MB of fill bytes in a JPEG took 16 s. The limit bounds that for every format.
"""

from __future__ import annotations

import io

from captioner.errors import ImageError

_READS = 100_000  # an ordinary image takes about 50
_BYTES_PER_READ = 256  # for further reads; a PNG in chunks of 8 kB needs one per 2000 bytes


class _ReadLimit:
    def _allow(self, name: str, size: int) -> None:
        self._name = name
        self._left = _READS + size // _BYTES_PER_READ

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ImageError(self._name, "it consists of too many tiny parts; save it again as PNG or JPEG")


class CountedFile(_ReadLimit, io.BufferedReader):
    """A file opened for reading; ``name`` is its name in errors."""

    def __init__(self, path: str, name: str, size: int) -> None:
        super().__init__(open(path, "rb", buffering=0))  # noqa: SIM115
        self._allow(name, size)

    def read(self, size: int | None = -1, /) -> bytes:
        self._count()
        return super().read(size)


class CountedBytes(_ReadLimit, io.BytesIO):
    """An encoded image in memory; ``name`` is its name in errors."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._allow(name, len(content))

    def read(self, size: int | None = -1, /) -> bytes:
        self._count()
        return super().read(size)
