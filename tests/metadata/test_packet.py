"""XMP packets: the forms in which other programs write them, what is kept, and what is refused."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.metadata.packet import ALT_TEXT, DEFAULT, DESCRIPTION, Packet
from captioner.metadata.rdf import PacketError

RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'
LANG = "{http://www.w3.org/XML/1998/namespace}lang"

# As Lightroom writes it: properties as attributes, a history, and padding for changes in place.
LIGHTROOM = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 5.6-c140 79.160451, 2017/05/06-01:08:21        ">
 <rdf:RDF {RDF}>
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
    {DC}
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
    xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
   xmp:Rating="3"
   crs:Exposure2012="+0.35"
   crs:Text="a &lt;tag&gt; &amp; dc:description='no'">
   <dc:subject>
    <rdf:Bag>
     <rdf:li>beach</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <!-- a comment -->
   <xmpMM:History>
    <rdf:Seq>
     <rdf:li stEvt:action="saved" stEvt:softwareAgent="Adobe Photoshop Lightroom"/>
    </rdf:Seq>
   </xmpMM:History>
   <crs:Mask><rdf:Bag><rdf:li><rdf:Description crs:What="Mask" dc:description="inner"/></rdf:li></rdf:Bag></crs:Mask>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
{(" " * 99 + chr(10)) * 30}<?xpacket end="w"?>"""

# As digiKam writes it (exiv2): a namespace for each property, an rdf:Alt.
DIGIKAM = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF {RDF}>
  <rdf:Description rdf:about="uuid:faf5bdd5" xmlns:digiKam="http://www.digikam.org/ns/1.0/" {DC} digiKam:PickLabel="0">
   <dc:description>
    <rdf:Alt>
     <rdf:li xml:lang="x-default">{{default}}</rdf:li>
     <rdf:li xml:lang="fr-FR">Une plage</rdf:li>
    </rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""


def bare(properties: str, attributes: str = "") -> bytes:
    block = f"<rdf:Description {DC} {attributes}>{properties}</rdf:Description>"
    return f"<rdf:RDF {RDF}>{block}</rdf:RDF>".encode()


def read(data: bytes, name: str = "description") -> dict[str | None, str | None]:
    """Return the texts of a property by language, as another XML parser reads them."""
    items = ElementTree.fromstring(data.decode().strip("\ufeff\0 \n")).findall(f".//{{*}}{name}/{{*}}Alt/{{*}}li")
    return {item.get(LANG): item.text for item in items}


def test_all_else_of_a_packet_stays_byte_for_byte() -> None:
    data = LIGHTROOM.encode()
    assert Packet(data).items(DESCRIPTION) == []  # that of the mask is another thing's
    new = Packet(data).edited({DESCRIPTION: {DEFAULT: "a dog"}, ALT_TEXT: {DEFAULT: "a dog"}}, ["1"])
    assert read(new) == read(new, "AltTextAccessibility") == {DEFAULT: "a dog"}
    before, after = data.split(b" </rdf:RDF>")
    assert new.startswith(before.rstrip()) and after.rstrip()[:13] in new
    assert len(new) == len(data)  # the padding has taken it up
    again = Packet(new).edited({DESCRIPTION: {DEFAULT: "a cat", "de": "eine Katze"}}, ["1", "2"])
    assert again.startswith(before.rstrip()) and len(again) == len(data)
    assert read(again) == {DEFAULT: "a cat", "de": "eine Katze"}
    assert (
        again.replace(b"a cat", b"a dog")
        .replace(b'<rdf:li xml:lang="de">eine Katze</rdf:li>', b"")
        .replace(b"1 2", b"1")
        .split()
        == new.replace(b"  <rdf:Description rdf:about", b"  <rdf:Description rdf:about").split()
    )


def test_an_item_is_replaced_where_it_stands() -> None:
    data = DIGIKAM.format(default="A beach").encode()
    new = Packet(data).edited({DESCRIPTION: {DEFAULT: "a dog & a <cat>", "en": "x"}}, ["1"])
    assert read(new) == {DEFAULT: "a dog & a <cat>", "fr-FR": "Une plage", "en": "x"}
    kept = new.replace(b"a dog &amp; a &lt;cat&gt;", b"A beach").replace(b'<rdf:li xml:lang="en">x</rdf:li>', b"")
    assert b"".join(kept.split()).startswith(b"".join(data.split(b"</rdf:RDF>")[0].split()))
    assert b'rdf:about="uuid:faf5bdd5">\n   <captioner:written>1<' in new


@pytest.mark.parametrize(
    "data",
    [
        bare("<dc:description>old</dc:description>"),
        bare("", 'dc:description="old"'),
        bare("", "dc:title='t' dc:description = 'old' "),
        bare("<dc:description><rdf:Bag><rdf:li>old</rdf:li></rdf:Bag></dc:description>"),
        bare('<dc:description rdf:parseType="Resource"><rdf:value>old</rdf:value></dc:description>'),
        bare("<dc:description><rdf:Alt><rdf:li>old</rdf:li></rdf:Alt></dc:description>"),
        bare('<dc:description><rdf:Alt><rdf:li xml:lang="X-Default">old</rdf:li></rdf:Alt></dc:description>'),
        bare("<dc:description><![CDATA[old]]></dc:description>"),
        bare("<dc:description><rdf:Alt><rdf:li/></rdf:Alt></dc:description>", 'dc:description="old"'),
        bare("<dc:description>old</dc:description>").replace(b"rdf:", b"r:").replace(b"xmlns:rdf", b"xmlns:r"),
        b"\xef\xbb\xbf" + bare("<dc:description>old</dc:description>") + b"\0\0\0",
    ],
)
def test_every_form_of_a_description_is_read_and_replaced(data: bytes) -> None:
    packet = Packet(data)
    assert packet.items(DESCRIPTION)[0] == (DEFAULT, "old")
    new = packet.edited({DESCRIPTION: {DEFAULT: "new", "en": "new"}}, ["1"])
    assert Packet(new).alternatives(DESCRIPTION) == {DEFAULT: "new", "en": "new"}
    assert b"old" not in new
    assert Packet(new).marks == {"1"}
    added = packet.edited({DESCRIPTION: {"en": "new"}}, ["1"])
    assert Packet(added).alternatives(DESCRIPTION) == {DEFAULT: "old", "en": "new"}


def test_an_empty_rdf_is_filled() -> None:
    for data in (f"<rdf:RDF {RDF}/>", f"<rdf:RDF {RDF}></rdf:RDF>", f"<rdf:RDF {RDF} />"):
        new = Packet(data.encode()).edited({DESCRIPTION: {DEFAULT: "a dog"}}, [])
        assert read(new) == {DEFAULT: "a dog"}


def test_repeated_writing_leaves_one_block() -> None:
    data = bare("<dc:title>t</dc:title>")
    first = Packet(data).edited({DESCRIPTION: {DEFAULT: "a"}}, ["1"])
    for number in range(5):
        data = Packet(data).edited({DESCRIPTION: {DEFAULT: "a"}}, [str(number)])
    assert data.replace(b"written>4<", b"written>1<") == first


BOMB = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>"""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not XML"),
        (b"   \0", "not XML"),
        (b"<a/>", "no element rdf:RDF"),
        (f"<rdf:RDF {RDF}>".encode(), "not XML"),
        (BOMB + bare("<dc:description>&b;</dc:description>"), "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd">' + bare(""), "document type"),
        (bare("<dc:description>&xxe;</dc:description>"), "not XML"),
        (bare("<dc:description>X</dc:description>").replace(b"X", b"\xff"), "UTF-8"),
        (bare("x").decode().encode("utf-16"), "it is encoded as UTF-16 or UTF-32, not UTF-8"),
        (bare("x").decode().encode("utf-16-be"), "it is encoded as UTF-16 or UTF-32, not UTF-8"),
        (b'<?xml version="1.0" encoding="ISO-8859-1"?>' + bare(""), "encoded as ISO-8859-1"),
        (bare("<a>" * 200 + "</a>" * 200), "too deeply"),
        (bare("<dc:description/>" * 70_000), "too many"),
        (b"<r:RDF/>", "not XML"),
    ],
)
def test_other_data_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PacketError, match=reason):
        Packet(data)


@pytest.mark.parametrize("encoding", ["UTF-8", "utf8", "US-ASCII"])
def test_other_names_of_utf_8_and_of_its_part_are_read(encoding: str) -> None:
    data = f'<?xml version="1.0" encoding="{encoding}"?>\n'.encode() + bare("<dc:description>X</dc:description>")
    assert Packet(data).items(DESCRIPTION) == [(DEFAULT, "X")]


LINES = st.text().map(lambda text: f"a{text}")


@given(LINES, LINES)
def test_any_text_comes_back_without_the_characters_that_xml_cannot_hold(first: str, second: str) -> None:
    new = Packet(None).edited({DESCRIPTION: {DEFAULT: first, "en": second}}, [])
    found = Packet(new).alternatives(DESCRIPTION)
    for language, text in ((DEFAULT, first), ("en", second)):
        assert len(found[language]) == len(text)
        for got, put in zip(found[language], text, strict=True):
            assert got == put or (got == " " and (put < " " or put in "\ufffe\uffff" or "\ud800" <= put <= "\udfff"))
    ElementTree.fromstring(new.decode())


def test_damaged_packets_are_refused_or_edited_in_the_same_way() -> None:
    """A damaged packet is refused, or the new one is XML again with the caption in it."""
    generator, refused = random.Random(1), 0
    for _ in range(400):
        damaged = bytearray(LIGHTROOM.encode())
        for _ in range(generator.choice((1, 1, 3, 10))):
            place = generator.randrange(len(LIGHTROOM) - 3100)
            new_bytes = generator.choice((b">", b"", generator.randbytes(1)))
            damaged[place : place + generator.choice((0, 1, 4))] = new_bytes
        try:
            new = Packet(bytes(damaged)).edited({DESCRIPTION: {DEFAULT: "a dog"}}, ["1"])
        except PacketError:
            refused += 1
            continue
        assert Packet(new).alternatives(DESCRIPTION)[DEFAULT] == "a dog"
    assert 100 < refused < 400
