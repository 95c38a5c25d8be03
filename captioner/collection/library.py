"""Captions where photo software reads them: next to the photos of a collection, and inside them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioner.collection.items import Item
from captioner.data.rows import Row
from captioner.errors import CaptionerError, FileError
from captioner.metadata import Outcome, TextSidecars, XmpSidecars, embed, embedded_texts, sidecar_texts

LANGUAGE = "en"  # of captions


@dataclass
class Library:
    """Writes captions into sidecars and into the photos themselves.

    Attributes:
        texts: writes text sidecars, if any.
        xmp: writes XMP sidecars, if any.
        embeds: whether captions are written into the photos.
        overwrite: replace what a person wrote.
        kept: number of photos in which a person's text was kept.
    """

    texts: TextSidecars | None = None
    xmp: XmpSidecars | None = None
    embeds: bool = False
    overwrite: bool = False
    kept: int = field(default=0, init=False)

    def lacks(self, item: Item) -> bool:
        """Return whether a photo has no text in one of the places; ``False`` for an unreadable photo."""
        path = Path(str(item.data))
        try:
            return (
                (self.texts is not None and not os.path.exists(self.texts.path(path)))
                or (self.xmp is not None and not os.path.exists(self.xmp.path(path)))
                or (self.embeds and not embedded_texts(path))
            )
        except CaptionerError:
            return False

    def write(self, item: Item, row: Row) -> Item:
        """Write the caption in a photo's row, and return the photo as it is then.

        A translation comes first, as most programs show the first text.

        Raises:
            CaptionerError: it cannot be written; see :mod:`captioner.metadata`.
        """
        if not isinstance(item.data, str):
            raise FileError(
                f"{item.name}: is not a file of its own, so its caption cannot be written next to it or into it; "
                "unpack it, or leave out --sidecar and --embed"
            )
        translation: dict[str, Any] = row.get("translation") or {}
        captions = {translation["language"]: translation["text"]} if translation else {}
        captions[LANGUAGE] = row["caption"]
        outcomes: list[Outcome] = []
        if self.texts is not None:
            outcomes.append(self.texts.write(item.data, next(iter(captions.values())), seen=item.status))
        if self.xmp is not None:
            outcomes.append(self.xmp.write(item.data, captions, seen=item.status))
        if self.embeds:
            sidecars = sidecar_texts(item.data)
            outcomes.append(embed(item.data, captions, sidecars=sidecars, overwrite=self.overwrite, seen=item.status))
        self.kept += any(outcome.kept for outcome in outcomes)
        return Item.of_file(item.data)
