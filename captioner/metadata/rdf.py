"""The elements of an XMP packet, which is RDF in XML, with the positions of their tags."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from xml.parsers import expat

from captioner.errors import first_line

Name: TypeAlias = tuple[str, str]
"""The namespace and the local name of an element or attribute."""

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_TAG = re.compile(rb"""<(?:[^<>"']|"[^"]*"|'[^']*')*>""")
_MAX_NODES, _MAX_DEPTH = 1 << 16, 100


class PacketError(ValueError):
    """An XMP packet that cannot be read; the message is a reason without a file's name."""


@dataclass
class Node:
    """An element of interest, with the positions of its tags in the packet.

    Attributes:
        name: of the element.
        attributes: values by name.
        qualified: the names of the attributes as they stand in the packet, with prefixes.
        start: position of its first tag.
        inside: position after its first tag; ``end`` if that is its only one.
        closing: position of its last tag; ``end`` if it has none.
        end: position after it.
        children: the elements inside that matter.
        others: number of the other elements inside.
        text: parts of the text, without that of the children.
    """

    name: Name
    attributes: dict[Name, str]
    qualified: dict[Name, str]
    start: int
    inside: int = 0
    closing: int = 0
    end: int = 0
    children: list[Node] = field(default_factory=list)
    others: int = 0
    text: list[str] = field(default_factory=list)

    @property
    def all_text(self) -> str:
        """The text of the element and of those inside it."""
        return "".join(self.text) + "".join(child.all_text for child in self.children)


def parse(data: bytes, properties: Collection[Name]) -> Node:
    """Find rdf:RDF in a packet, its blocks, and the properties in them that matter.

    Args:
        data: the packet.
        properties: the names of the properties that matter.

    Raises:
        PacketError: it is not well-formed XML in UTF-8, has a document type, or no element rdf:RDF; or its elements are
            too many or nested too deeply.
    """
    return _Parser(data, properties).rdf


class _Parser:
    """Finds the elements of a packet that matter: rdf:RDF, its blocks, and their properties that hold captions.

    Attributes:
        rdf: the element rdf:RDF.
    """

    rdf: Node

    def __init__(self, data: bytes, properties: Collection[Name]) -> None:
        self._data, self._properties = data, properties
        self._root: Node | None = None
        self._open: list[Node | None] = []  # ``None`` for elements that do not matter
        self._count = 0
        parser: Any = expat.ParserCreate("utf-8", " ")
        parser.namespace_prefixes = True
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._document_type
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        self._parser = parser
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:2]:
            raise PacketError("it is encoded as UTF-16 or UTF-32, not UTF-8")
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise PacketError(f"it is not XML in UTF-8 ({first_line(error)})") from None
        if self._root is None:
            raise PacketError("it has no element rdf:RDF")
        self.rdf = self._root

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        with suppress(LookupError):
            if codecs.lookup(encoding or "utf-8").name in ("utf-8", "ascii"):
                return
        raise PacketError(f"it is encoded as {encoding}, not UTF-8")

    def _document_type(self, *declaration: object) -> None:
        raise PacketError("it has a document type, which XMP does not have")

    def _matters(self, name: Name) -> bool:
        """Return whether an element that begins now is rdf:RDF, one of its blocks, or in a property with captions."""
        if self._root is None:
            return name == (RDF, "RDF")
        parent = self._open[-1] if self._open else None
        if parent is None or parent is self._root:
            return parent is self._root
        return self._open[-2] is not self._root or name in self._properties

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else None
        if len(self._open) >= _MAX_DEPTH:
            raise PacketError("its elements are nested too deeply")
        if not self._matters(_name(name)):
            if parent is not None:
                parent.others += 1
            self._open.append(None)
            return
        self._count += 1
        if self._count > _MAX_NODES:
            raise PacketError("it has too many blocks or items")
        start = self._parser.CurrentByteIndex
        tag = _TAG.match(self._data, start)
        if tag is None:
            raise PacketError("one of its tags is damaged")
        values = {_name(key): value for key, value in attributes.items()}
        node = Node(_name(name), values, {_name(key): _qualified(key) for key in attributes}, start, tag.end())
        if tag[0].endswith(b"/>"):
            node.closing = node.end = tag.end()
        if parent is not None:
            parent.children.append(node)
        else:
            self._root = node
        self._open.append(node)

    def _end(self, name: str) -> None:
        node = self._open.pop()
        if node is not None and not node.end:
            node.closing = self._parser.CurrentByteIndex
            node.end = self._data.index(b">", node.closing) + 1

    def _text(self, text: str) -> None:
        if self._open and self._open[-1] is not None:
            self._open[-1].text.append(text)


def _name(name: str) -> Name:
    """Split a name as expat gives it, ``namespace local prefix``, or ``local`` outside any namespace."""
    parts = name.split(" ")
    return (parts[0], parts[1]) if len(parts) > 1 else ("", name)


def _qualified(name: str) -> str:
    """Return an attribute's name with its prefix, as it stands in the file."""
    parts = name.split(" ")
    return f"{parts[2]}:{parts[1]}" if len(parts) > 2 else parts[-1]
