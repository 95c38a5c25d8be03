"""Reading the images in a ZIP file, one after the other."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from captioner.collection.limits import BadPart, check_unpacked, too_large
from captioner.data.find import IMAGE_EXTENSIONS, is_hidden
from captioner.errors import first_line

_MAX_MEMBERS = 4_000_000  # of a ZIP file; their list is read into memory


def images_in_zip(opened: Callable[[], AbstractContextManager[Any]]) -> Iterator[tuple[str, bytes | str]]:
    """Yield the images of a ZIP file: the name, with the bytes or the reason why they are not read.

    Hidden members are left out.

    Args:
        opened: opens the file, which must be seekable.

    Raises:
        BadPart: its list of members cannot be read, or it unpacks to far more than its size.
    """
    with opened() as file:
        try:
            archive = zipfile.ZipFile(file)
            members = archive.infolist()
        except Exception as error:  # a damaged file can make zipfile raise nearly anything
            raise BadPart(f"is not a ZIP file, or damaged ({first_line(error)})") from None
        if len(members) > _MAX_MEMBERS:
            raise BadPart(f"has {len(members):,} members, more than the {_MAX_MEMBERS:,} that are read; split it")
        unpacked = packed = 0
        for member in members:
            name = member.filename
            if member.is_dir() or is_hidden(name) or os.path.splitext(name)[1].lower() not in IMAGE_EXTENSIONS:
                continue
            unpacked, packed = unpacked + member.file_size, packed + member.compress_size
            check_unpacked(unpacked, packed)
            yield name, too_large(member.file_size) or _content(archive, member)


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | str:
    """Return the bytes of a member, or the reason why they cannot be read."""
    if member.flag_bits & 1:
        return "is encrypted; unpack it with its password"
    try:
        with archive.open(member) as stream:
            data = stream.read(member.file_size + 1)
    except NotImplementedError as error:
        return f"is compressed in a way that is not read ({first_line(error)}); unpack it"
    except Exception as error:  # a damaged member can make zipfile raise nearly anything
        return f"cannot be unpacked ({first_line(error)}); get a fresh copy of the ZIP file"
    return data if len(data) == member.file_size else "has another size than its ZIP file lists; get a fresh copy of it"
