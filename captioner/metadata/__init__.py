"""Captions where image libraries keep them: in text and XMP files next to the images, and in XMP inside them.

What a person wrote is kept, the compressed image never changes, and a file is replaced as a whole or not at all.
"""

from captioner.metadata.authors import Author, Text
from captioner.metadata.embedded import Outcome, by_language, embed, embedded_texts
from captioner.metadata.packet import ALT_TEXT, DEFAULT, DESCRIPTION
from captioner.metadata.text_sidecars import RECORD, TEXT, TextSidecars, text_file, text_sidecar
from captioner.metadata.xmp_sidecars import (
    SIDECAR_NAMES,
    SidecarName,
    XmpSidecars,
    sidecar_texts,
    texts_of,
    xmp_file,
)

__all__ = [
    "ALT_TEXT",
    "DEFAULT",
    "DESCRIPTION",
    "RECORD",
    "SIDECAR_NAMES",
    "TEXT",
    "Author",
    "Outcome",
    "SidecarName",
    "Text",
    "TextSidecars",
    "XmpSidecars",
    "by_language",
    "embed",
    "embedded_texts",
    "sidecar_texts",
    "text_file",
    "text_sidecar",
    "texts_of",
    "xmp_file",
]
