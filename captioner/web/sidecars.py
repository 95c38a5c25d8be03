"""The files that ``captioner caption --sidecar`` puts next to photos, in a ZIP."""

from __future__ import annotations

import io
import zipfile

from captioner.errors import CaptionerError
from captioner.metadata import TextSidecars, XmpSidecars, by_language, text_file, xmp_file
from captioner.web.answers import SidecarsRequest

_TIME = (1980, 1, 1, 0, 0, 0)  # the same request gives the same bytes


def zipped(request: SidecarsRequest) -> bytes:
    """Return a ZIP with the sidecars of photos; blank captions have none.

    Of sidecars with the same name, the second is in a folder ``2``, the third in ``3``.

    Raises:
        CaptionerError: a name cannot be that of a file, or all captions are blank.
    """
    place = (TextSidecars() if request.format == "txt" else XmpSidecars(name="photo.jpg.xmp")).path
    stream, seen = io.BytesIO(), dict[str, int]()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for photo in request.photos:
            captions = by_language(photo.captions)
            if not captions:
                continue
            if set(photo.name) & set("/\\\0") or photo.name in (".", ".."):
                raise CaptionerError(f"{photo.name!r}: cannot be the name of a file; leave out its folder")
            name = str(place(photo.name))
            seen[name.lower()] = number = seen.get(name.lower(), 0) + 1
            content = (
                text_file(next(iter(captions.values())))
                if request.format == "txt"
                else xmp_file(captions, edited=photo.edited)
            )
            member = zipfile.ZipInfo(name if number == 1 else f"{number}/{name}", _TIME)
            member.external_attr = 0o644 << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    if not seen:
        raise CaptionerError("there are no captions; send some")
    return stream.getvalue()
