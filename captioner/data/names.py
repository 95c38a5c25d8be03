"""Names of image files: lists of them, and names that are web addresses or paths of another system."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from captioner.errors import CaptionerError

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+|(data):", re.IGNORECASE)
MAX_IMAGE_BYTES = 256 << 20
"""Largest image that is read into memory, in bytes: three times the largest JPEG files, and 89 million pixels without
compression."""

_MAX_NAME = 1 << 16  # letters of a name, far more than any system allows
_IMAGE = re.compile(  # JPEG, PNG, GIF, WebP, TIFF, BMP, HEIF and AVIF, JPEG 2000
    rb"\xff\xd8\xff|\x89PNG|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|BM....\0\0\0\0|....ftyp|\0\0\0\x0cjP|\xff\x4f\xff\x51",
    re.DOTALL,
)
# PDF, ZIP and gzip; two zero bytes, which would be an empty name.
_BINARY = re.compile(rb"%PDF-|PK\x03\x04|\x1f\x8b|.*\0\0", re.DOTALL)


def why_no_file(name: str) -> str | None:
    """Return the reason and what to do if a name is an address or a path of another system."""
    if found := _ADDRESS.match(name):
        scheme = (found[1] or found[2]).lower()
        if scheme == "data":
            return "this is the image itself, written as an address; save it as a file first"
        if scheme == "file":
            return f"this is the address of a file; give its path: {unquote(urlsplit(name).path)}"
        if scheme in ("http", "https", "ftp"):
            return "this is a web address; download the image first"
        return f"this is an address ({scheme}), not a file; copy the image to this machine first"
    if "\\" in name and os.sep != "\\":
        return "there is no such file; if this is a path of Windows, write it with / as on this system"
    return None


def shortened_name(name: str) -> str:
    """Shorten a data address, which holds a whole image, for messages."""
    return name if len(name) <= 1000 or name[:5].lower() != "data:" else f"{name[:60]}..."


def read_list(stream: BinaryIO) -> Iterator[str | bytes]:
    """Yield the names in a list on arrival: one on each line, or each ended by a zero byte.

    If there is no such file, a byte order mark, the CR of a line end, blanks and quotes around a name are removed, and
    ``~`` is replaced by the home folder.

    Args:
        stream: the list, in the encoding of file names or in UTF-16 with a byte order mark, as PowerShell writes it. Or
            an image itself, by its first bytes, which is yielded whole.

    Raises:
        CaptionerError: it is neither, or an image of more than 256 MiB.
    """
    head = _read(stream)
    while head and not re.search(rb"[\0\r\n]", head) and len(head) < _MAX_NAME and (more := _read(stream)):
        head += more
    while len(head) < 16 and head[:1] in (b"\xff", b"\x89", b"\0") and (more := _read(stream)):
        head += more
    if _IMAGE.match(head):
        while len(head) <= MAX_IMAGE_BYTES and (more := _read(stream)):
            head += more
        if len(head) > MAX_IMAGE_BYTES:
            raise CaptionerError(
                f"standard input: the image has more than {MAX_IMAGE_BYTES:,} bytes; give it as a file"
            )
        yield head
        return
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not is_utf16 and _BINARY.match(head):
        raise CaptionerError("standard input: this is neither a list of names nor an image; give the images as files")
    encoding = "utf-16" if is_utf16 else sys.getfilesystemencoding()
    decode = codecs.getincrementaldecoder(encoding)("replace" if is_utf16 else sys.getfilesystemencodeerrors()).decode
    rest = decode(head)
    end = next((letter for letter in "\0\n\r" if letter in rest), "\n")
    while True:
        *lines, rest = rest.split(end)
        yield from filter(None, map(_name, lines))
        if len(rest) > _MAX_NAME:
            raise CaptionerError(
                f"standard input: this is not a list of names, since one would have over {_MAX_NAME:,} letters"
            )
        block = _read(stream)
        rest += decode(block, not block)
        if not block:
            break
    yield from filter(None, map(_name, rest.split(end)))


def _read(stream: BinaryIO) -> bytes:
    """Read the bytes that have arrived; wait only if there are none."""
    try:
        return stream.read1(_MAX_NAME)  # type: ignore[attr-defined]
    except OSError as error:
        raise CaptionerError(
            f"standard input: cannot be read ({error.strerror}); give the names in another way"
        ) from None


def _name(given: str) -> str:
    """Return the name in an entry of a list; empty if there is none."""
    if os.path.lexists(given):
        return given
    name = given.strip("\ufeff").strip()
    if os.path.lexists(name):
        return name
    if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1]
    home = os.path.expanduser(name)
    return home if home != name and not os.path.lexists(name) else name
