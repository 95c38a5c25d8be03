"""XMP packets (ISO 16684-1), read for captions and edited in place.

A packet belongs to several programs, each with its own namespaces, order and form. It is therefore not rebuilt from a
tree: the bytes of a caption are replaced, and all other bytes remain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias
from xml.sax.saxutils import escape

from captioner.metadata.rdf import RDF, Name, Node, parse

DESCRIPTION, ALT_TEXT = "dc:description", "Iptc4xmpCore:AltTextAccessibility"
DEFAULT = "x-default"
"""The language tag of text in no named language, which most programs show."""

_Edit: TypeAlias = tuple[int, int, bytes]  # from where to where in the packet, and the new bytes

_DC, _TIFF = "http://purl.org/dc/elements/1.1/", "http://ns.adobe.com/tiff/1.0/"
_IPTC = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
_NAMESPACE = "urn:uuid:d23e41e5-1f59-445d-b54d-aeb3745f6067#"
_PREFIXES = {RDF: "rdf", _DC: "dc", _IPTC: "Iptc4xmpCore", _NAMESPACE: "captioner"}

_ABOUT, _LANGUAGE = (RDF, "about"), ("http://www.w3.org/XML/1998/namespace", "lang")
_MARKS = (_NAMESPACE, "written")
_WRITTEN = {DESCRIPTION: (_DC, "description"), ALT_TEXT: (_IPTC, "AltTextAccessibility")}
_READ = {
    DESCRIPTION: [(_DC, "description"), (_TIFF, "ImageDescription")],  # the second where immich repeats the first
    ALT_TEXT: [(_IPTC, "AltTextAccessibility")],
}
_PROPERTIES = {_MARKS, *(name for names in _READ.values() for name in names)}

_ATTRIBUTE = re.compile(rb"""\s+([^\s=]+)\s*=\s*("[^"]*"|'[^']*')""")
_NOT_XML = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BLANK = b"\0 \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    b' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    b" </rdf:RDF>\n"
    b'</x:xmpmeta>\n<?xpacket end="w"?>\n'
)


class Packet:
    """An XMP packet.

    Args:
        data: the packet, or ``None`` for a new one.

    Attributes:
        marks: the marks of the texts that this program has written into it (:func:`captioner.metadata.authors.mark`).

    Raises:
        PacketError: it is not well-formed XML in UTF-8, has a document type (in which entities could be declared), or
            no element ``rdf:RDF``.
    """

    def __init__(self, data: bytes | None) -> None:
        whole = _EMPTY if data is None else data
        self._data = whole.strip(_BLANK).removeprefix(_BYTE_ORDER_MARK).lstrip(_BLANK)
        self._before, _, self._after = whole.partition(self._data) if self._data else (whole, b"", b"")
        self._rdf = parse(self._data, _PROPERTIES)
        marks = [each.all_text for each in self._properties(_MARKS)]
        marks += [block.attributes.get(_MARKS, "") for block in self._rdf.children]
        self.marks = frozenset(" ".join(marks).split())

    def items(self, wanted: str) -> list[tuple[str, str]]:
        """Return the texts of :data:`DESCRIPTION` or :data:`ALT_TEXT`, each with its language in lower case.

        Text without a language has :data:`DEFAULT`. A description also comes from ``tiff:ImageDescription``.
        """
        return [(language.lower(), text) for name in _READ[wanted] for language, text in self._items(name)]

    def alternatives(self, wanted: str) -> dict[str, str]:
        """Return the texts of the property that :meth:`edited` writes, by language in lower case."""
        return {language.lower(): text for language, text in self._items(_WRITTEN[wanted]) if text.strip()}

    def _properties(self, name: Name) -> list[Node]:
        return [each for block in self._rdf.children for each in block.children if each.name == name]

    def _items(self, name: Name) -> Iterator[tuple[str, str]]:
        for block in self._rdf.children:
            if name in block.attributes:
                yield DEFAULT, block.attributes[name]
        for each in self._properties(name):
            arrays = [child for child in each.children if child.name in ((RDF, "Alt"), (RDF, "Bag"), (RDF, "Seq"))]
            for item in [item for array in arrays for item in array.children] or [each]:
                yield item.attributes.get(_LANGUAGE, DEFAULT), item.all_text

    def edited(self, texts: Mapping[str, Mapping[str, str]], marks: Iterable[str]) -> bytes:
        """Return the packet with other texts in some languages; all else stays, byte for byte.

        Blank space before the end of the packet, which is meant for such changes, takes them up if it suffices.

        Args:
            texts: for :data:`DESCRIPTION` and :data:`ALT_TEXT`, the text by language; other languages stay.
            marks: replace those that the packet has.
        """
        edits: list[_Edit] = []
        new: list[str] = []
        for wanted, by_language in texts.items():
            name = _WRITTEN[wanted]
            plain = self._plain_alternatives(name)
            if plain is not None:
                edits += _edited_alternatives(plain, by_language)
                continue
            # It is missing, or not in the form for text in languages.
            replaced = {language.lower() for language in by_language}
            kept = {key: text for key, text in self._items(name) if key.lower() not in replaced and text.strip()}
            items = sorted({**by_language, **kept}.items(), key=lambda item: item[0] != DEFAULT)
            xml = "".join(_item(language, text) for language, text in items)
            new.append(_element(name, f"<rdf:Alt>{xml}</rdf:Alt>"))
            edits += self._removal(name)
        marks_text = " ".join(sorted(marks))
        present = self._properties(_MARKS)
        if len(present) == 1 and not present[0].children and present[0].inside < present[0].end:
            edits.append((present[0].inside, present[0].closing, marks_text.encode()))
        else:
            new.append(_element(_MARKS, marks_text))
            edits += self._removal(_MARKS)
        if new:
            edits.append(self._new_block(new))
        data = self._data
        for start, end, inserted in sorted(edits, reverse=True):
            data = data[:start] + inserted + data[end:]
        return self._before + _padded(data, len(self._data)) + self._after

    def _plain_alternatives(self, name: Name) -> Node | None:
        """Return the rdf:Alt of a property that occurs once and consists of plain items, one per language."""
        found = self._properties(name)
        if len(found) != 1 or len(found[0].children) != 1 or any(name in b.attributes for b in self._rdf.children):
            return None
        alternatives = found[0].children[0]
        items = alternatives.children
        languages = {item.attributes.get(_LANGUAGE, DEFAULT).lower() for item in items}
        plain = all(item.name == (RDF, "li") and not item.children and item.inside < item.end for item in items)
        one_each = len(languages) == len(items)
        # Items are added with this prefix.
        whole = self._data.startswith(b"<rdf:Alt", alternatives.start) and alternatives.inside < alternatives.end
        return alternatives if whole and plain and one_each else None

    def _removal(self, name: Name) -> list[_Edit]:
        """Return the edits that remove a property, and each block that holds nothing else."""
        edits: list[_Edit] = []
        for block in self._rdf.children:
            removed = [each for each in block.children if each.name == name]
            only_this = len(removed) == len(block.children) and not block.others and set(block.attributes) <= {_ABOUT}
            if removed and only_this:
                removed = [block]
            edits += [(self._blank_before(each.start), each.end, b"") for each in removed]
            if name in block.attributes:
                tag = self._data[block.start : block.inside]
                qualified = block.qualified[name].encode()
                found = [match for match in _ATTRIBUTE.finditer(tag) if match[1] == qualified]
                edits += [(block.start + match.start(), block.start + match.end(), b"") for match in found]
        return edits

    def _blank_before(self, position: int) -> int:
        """Return where the blank space before a position begins."""
        while self._data[position - 1] in _BLANK:
            position -= 1
        return position

    def _new_block(self, properties: list[str]) -> _Edit:
        """Return the edit that adds a block of properties of the same thing as the other blocks."""
        rdf = self._rdf
        about = next((block.attributes[_ABOUT] for block in rdf.children if _ABOUT in block.attributes), "")
        namespaces = "".join(f' xmlns:{prefix}="{uri}"' for uri, prefix in _PREFIXES.items())
        lines = "".join(f"   {each}\n" for each in properties)
        block = f'\n  <rdf:Description{namespaces} rdf:about="{_xml(about)}">\n{lines}  </rdf:Description>\n '.encode()
        if rdf.inside < rdf.end:
            return self._blank_before(rdf.closing), rdf.closing, block
        tag = self._data[rdf.start : rdf.end]  # one tag, <rdf:RDF/>
        element = tag[1:-2].split()[0]
        return rdf.end - 2, rdf.end, b">" + block + b"</" + element + b">"


def _edited_alternatives(alternatives: Node, texts: Mapping[str, str]) -> list[_Edit]:
    """Return the edits of an rdf:Alt that replace the items of some languages, or add them."""
    items = {item.attributes.get(_LANGUAGE, DEFAULT).lower(): item for item in alternatives.children}
    edits: list[_Edit] = []
    for language, text in texts.items():
        item = items.get(language.lower())
        if item is not None:
            edits.append((item.inside, item.closing, _xml(text).encode()))
            continue
        # The default is the first item (ISO 16684-1, 8.2.2.4).
        place = alternatives.inside if language == DEFAULT else alternatives.closing
        edits.append((place, place, _item(language, text).encode()))
    return edits


def _element(name: Name, content: str) -> str:
    tag = f"{_PREFIXES[name[0]]}:{name[1]}"
    return f"<{tag}>{content}</{tag}>"


def _item(language: str, text: str) -> str:
    return f'<rdf:li xml:lang="{_xml(language)}">{_xml(text)}</rdf:li>'


def without_controls(text: str) -> str:
    """Return text in which characters that XML cannot hold are blanks."""
    return _NOT_XML.sub(" ", text)


def _xml(text: str) -> str:
    """Return text as content of XML, or as the value of an attribute."""
    return escape(without_controls(text), {'"': "&quot;"})


def _padded(data: bytes, size: int) -> bytes:
    """Return a packet with as much padding as makes it ``size`` bytes long; one that is longer anyway has none."""
    end = data.rfind(b"<?xpacket end=")
    start = len(data[: max(end, 0)].rstrip(_BLANK))
    if end < 0 or end - start < 100:  # too few blanks to be padding
        return data
    padding = max(end - start + size - len(data), 1)
    return data[:start] + b" " * (padding - 1) + b"\n" + data[end:]
