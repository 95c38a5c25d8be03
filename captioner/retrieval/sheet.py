"""A contact sheet of the photos that were found: one HTML file that loads nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from captioner.data.images import load_image
from captioner.errors import ImageError
from captioner.figures.document import clean
from captioner.figures.explorer import data_url
from captioner.retrieval.ranking import Hit

_SIDE = 480  # pixels of the longer side of an image


def contact_sheet(sentence: str, hits: Sequence[Hit], page: Path, *, folder: Path, searched: int) -> str:
    """Return the page.

    Args:
        sentence: that the photos were found by.
        hits: the photos, best first.
        page: its file; the links to the photos are relative to it.
        folder: of the photos; their names are relative to it.
        searched: number of photos that were searched.
    """
    packages = [PackageLoader("captioner.retrieval", ""), PackageLoader("captioner.figures", "")]
    environment = Environment(
        loader=ChoiceLoader(packages), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = [
        {
            "name": clean(str(hit.path.relative_to(folder))),
            "link": _link(hit.path, page),
            "score": f"{hit.score:+.2f}",
            "texts": clean(hit.text).splitlines(),
            "image": _thumbnail(hit.path),
        }
        for hit in hits
    ]
    return environment.get_template("sheet.html.j2").render(
        sentence=clean(sentence), hits=shown, searched=f"{searched:,} photo{'s' * (searched != 1)}"
    )


def _link(photo: Path, page: Path) -> str:
    try:
        relative = os.path.relpath(photo, page.parent)
    except ValueError:  # on another drive of Windows
        return photo.absolute().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _thumbnail(path: Path) -> str | None:
    """Return a small image in a data URL; ``None`` if it cannot be read any more."""
    try:
        image = load_image(path, min_size=_SIDE)
    except ImageError:
        return None
    image.thumbnail((_SIDE, _SIDE))
    return data_url(image)
