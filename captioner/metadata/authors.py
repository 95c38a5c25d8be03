"""The authors of captions in an image's metadata: a person, this program, or the camera.

A packet that this program writes also has a mark of each text in it. A text without a mark is a person's, and so is a
text that a person has changed.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from captioner.metadata.packet import ALT_TEXT, DEFAULT, DESCRIPTION, Packet

Author: TypeAlias = Literal["person", "captioner", "camera"]

# Default texts of cameras, phones and GIMP in ImageDescription.
_CAMERAS = (
    *("olympus digital camera", "sony dsc", "minolta digital camera", "konica minolta digital camera", "samsung"),
    *("samsung camera pictures", "samsung digital camera", "pentax digital camera", "kodak digital still camera"),
    *("medion digital camera", "exif_jpeg_picture", "exif jpeg picture", "created with gimp"),
    *("dav", "cof", "edf", "qrf", "sdr", "rhdr", "hdrpl", "oplus_0", "oplus_32"),
)


@dataclass(frozen=True)
class Text:
    """A caption in an image's metadata.

    Attributes:
        field: :data:`~captioner.metadata.packet.DESCRIPTION` or :data:`~captioner.metadata.packet.ALT_TEXT`.
        language: its language tag in lower case, or ``x-default``.
        text: the caption.
        place: the file that holds it, by name.
        author: who wrote it.
    """

    field: str
    language: str
    text: str
    place: str
    author: Author


@dataclass(frozen=True)
class Plan:
    """The texts to write into a packet.

    Attributes:
        texts: by field, the text in each language to set; empty if nothing is to be written.
        marks: of all texts of this program then in the image's metadata.
        kept: fields that a person has filled and that stay.
    """

    texts: dict[str, dict[str, str]]
    marks: frozenset[str]
    kept: tuple[str, ...]


def mark(text: str) -> str:
    """Return the mark of a text: its SHA-256 to 32 digits, after NFC and with single blanks.

    Other programs may normalise a text when they save it, which must not make it a person's.
    """
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(plain.encode("utf-8", "replace")).hexdigest()[:32]


def author_of(text: str, marks: Set[str]) -> Author:
    """Return who wrote a text.

    Args:
        text: not blank.
        marks: of the texts that this program wrote.
    """
    if mark(text) in marks:
        return "captioner"
    plain = text.strip().lower()
    # DJI's drones write the name of the file.
    return "camera" if plain in _CAMERAS or plain.startswith("dcim\\") else "person"


def attributed(texts: Iterable[Text], marks: Set[str] = frozenset()) -> list[Text]:
    """Return texts with their authors as known from all of them: programs copy a text from one field to another.

    Args:
        texts: the texts of one image.
        marks: further ones of texts that this program wrote.
    """
    texts = list(texts)
    known = marks | {mark(each.text) for each in texts if each.author == "captioner"}
    return [replace(each, author=author_of(each.text, known)) for each in texts]


def plan(packet: Packet, captions: Mapping[str, str], elsewhere: Iterable[Text], *, overwrite: bool) -> Plan:
    """Decide what a packet should have in both fields.

    A field in which a person wrote, in any language, is kept. The default text becomes that of the first caption,
    unless this program wrote it in another language.

    Args:
        packet: the packet to be written.
        captions: text by language tag; ``x-default`` for one in no named language.
        elsewhere: the texts that the image's other metadata has.
        overwrite: also replace what a person wrote in these languages.
    """
    others = list(elsewhere)
    marks = packet.marks | {mark(each.text) for each in others if each.author == "captioner"}
    others = attributed(others, marks)
    texts: dict[str, dict[str, str]] = {}
    kept: list[str] = []
    remaining = [each.text for each in others]
    for field in (DESCRIPTION, ALT_TEXT):
        here = packet.alternatives(field)
        written = [text for _, text in packet.items(field) if text.strip()]
        authors = {author_of(text, marks) for text in written} | {each.author for each in others if each.field == field}
        if "person" in authors and not overwrite:
            kept.append(field)
            remaining += written
            continue
        wanted = {language.lower(): text for language, text in captions.items()}
        if not _default_is_in_another_language(here, captions, marks):
            wanted.setdefault(DEFAULT, next(iter(captions.values())))
        if wanted.items() - here.items():
            tags = {language.lower(): language for language in captions}
            texts[field] = {tags.get(key, key): text for key, text in wanted.items() if here.get(key) != text}
        remaining += [text for text in written if text not in here.values()]
        remaining += {**here, **wanted}.values()
    known = packet.marks | {mark(text) for by_tag in texts.values() for text in by_tag.values()}
    return Plan(texts, frozenset(known & {mark(text) for text in remaining}), tuple(kept))


def _default_is_in_another_language(here: Mapping[str, str], captions: Mapping[str, str], marks: Set[str]) -> bool:
    """Return whether a field's default is a text of this program in a language that has no new caption.

    Args:
        here: the field's texts by language in lower case.
        captions: the new ones.
        marks: of the texts that this program wrote.
    """
    default = here.get(DEFAULT)
    if default is None or author_of(default, marks) != "captioner":
        return False
    replaced = {DEFAULT, *map(str.lower, captions)}
    return any(text == default for language, text in here.items() if language not in replaced)
