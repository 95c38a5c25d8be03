"""Reading the images in a tar file as a stream, in bounded memory for any headers."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from captioner.collection.limits import MAX_HEADER, BadPart, check_unpacked, too_large
from captioner.collection.part import is_tar
from captioner.data.find import IMAGE_EXTENSIONS, is_hidden
from captioner.data.packed import CheckedMember
from captioner.errors import first_line

_PACKED: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ", lzma.open),
    (b"\x5d\0\0\x80", lzma.open),
)


def images_in_tar(
    opened: Callable[[], AbstractContextManager[Any]],
) -> Iterator[tuple[str, bytes | str]]:
    """Yield the images of a tar file: the name, with the bytes or the reason why they are not read.

    Links come last: their targets are read in a second pass, if there are any. Hidden members are left out.

    Args:
        opened: opens the file, at its beginning.

    Raises:
        BadPart: the file cannot be read to its end; the images before that have been yielded.
    """
    links: dict[str, tuple[str, str]] = {}  # by normalised name: the name, and the normalised name of its target
    count, broken = 0, ""
    try:
        with opened() as file:
            for member, stream in _members(file):
                if is_hidden(member.name):
                    continue
                if member.isreg() and is_tar(member.name):
                    yield member.name, "is a tar file in a tar file, which is not read; unpack the outer one"
                    continue
                if os.path.splitext(member.name)[1].lower() not in IMAGE_EXTENSIONS:
                    continue
                if member.islnk() or member.issym():
                    folder = posixpath.dirname(member.name) if member.issym() else ""
                    target = posixpath.normpath(posixpath.join(folder, member.linkname))
                    links[posixpath.normpath(member.name)] = member.name, target
                elif member.isdev():
                    yield member.name, "is a device or a pipe, not a file; leave it out, or put the file there"
                elif not member.isdir():
                    content = _content(member, stream)
                    count += isinstance(content, bytes)
                    yield member.name, content
    except Exception as error:  # tarfile raises many kinds for damaged files, and each kind of storage its own
        broken = f"the tar file ends or breaks after {count:,} images ({first_line(error)})"
    if links:
        yield from _linked(opened, links)
    if broken:
        raise BadPart(broken)


def _linked(
    opened: Callable[[], AbstractContextManager[Any]], links: dict[str, tuple[str, str]]
) -> Iterator[tuple[str, bytes | str]]:
    """Yield the images that links point to; see the links of :func:`images_in_tar`."""
    wanted: dict[str, list[str]] = {}
    for name, target in links.values():
        for _ in range(40):  # as many links in a row as Linux follows
            if target not in links:
                break
            target = links[target][1]
        wanted.setdefault(target, []).append(name)
    try:
        with opened() as file:
            for member, stream in _members(file):
                name = posixpath.normpath(member.name)
                if member.isreg() and name in wanted:
                    content = _content(member, stream)
                    yield from ((link, content) for link in wanted.pop(name))
                if not wanted:
                    return
    except Exception:  # the first pass reported it
        pass
    for target, names in wanted.items():
        yield from (
            (name, f"is a link to {target}, which is not a file in this tar file; add it there") for name in names
        )


def _members(file: Any) -> Iterator[tuple[tarfile.TarInfo, _ForwardFile]]:
    stream = _ForwardFile(file)
    with tarfile.TarFile(fileobj=stream, tarinfo=CheckedMember) as archive:  # type: ignore[arg-type]
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all members
            yield member, stream
            stream.in_headers = 0


def _content(member: tarfile.TarInfo, stream: _ForwardFile) -> bytes | str:
    """Return the bytes of a member, or the reason why they are not read."""
    if member.size < 0:
        raise BadPart("a negative size")
    if reason := too_large(member.size):
        return reason
    stream.seek(member.offset_data)
    pieces: Any = member.sparse
    if pieces is None:
        return stream.take(member.size)
    data = bytearray(member.size)
    for start, count in pieces:
        if not 0 <= start <= start + count <= member.size:
            raise BadPart("a damaged map of a sparse member")
        data[start : start + count] = stream.take(count)
    return bytes(data)


class _ForwardFile:
    """A tar file that is unpacked if necessary and read forwards only.

    tarfile itself reads the headers and keeps them in memory, so their size is limited.

    Attributes:
        in_headers: bytes of headers read since the last member.
    """

    def __init__(self, file: Any) -> None:
        self.in_headers = self._at = 0
        self._source = _CountingFile(file)
        buffered = io.BufferedReader(self._source, 1 << 16)
        head = buffered.peek(6)[:6]
        self._packed = next((unpack for magic, unpack in _PACKED if head.startswith(magic)), None)
        self._jumps = self._packed is None and file.seekable()
        if self._jumps:
            file.seek(0)
        self._file: Any = file if self._jumps else self._packed(buffered) if self._packed else buffered

    def tell(self) -> int:
        """Return the position in the unpacked file."""
        return self._at

    def seek(self, position: int) -> None:
        """Skip to a later position."""
        if position < self._at:
            raise BadPart("a negative size")
        if self._jumps:
            self._file.seek(position)
            self._at = position
        while self._at < position:
            self.take(min(1 << 20, position - self._at))

    def read(self, size: int) -> bytes:
        """Read part of a header; returns fewer bytes at the end of the file."""
        self.in_headers += size
        if not 0 <= size <= self.in_headers <= MAX_HEADER:
            raise BadPart(f"a member's headers claim more than {MAX_HEADER:,} bytes")
        return self._read(size)

    def take(self, size: int) -> bytes:
        """Read content.

        Raises:
            BadPart: the file ends too early.
        """
        data = self._read(size)
        if len(data) < size:
            raise BadPart("unexpected end of data")
        return data

    def _read(self, size: int) -> bytes:
        pieces = []
        while size > 0 and (data := self._file.read(size)):
            pieces.append(data)
            size -= len(data)
            self._at += len(data)
            if self._packed:
                check_unpacked(self._at, self._source.count)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _CountingFile(io.RawIOBase):
    """A file that counts the bytes read from it."""

    def __init__(self, file: Any) -> None:
        self.count = 0
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)
