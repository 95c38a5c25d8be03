"""XMP in TIFF files: tag 700 of the first directory (XMP specification, part 3, section 1.1.4).

A TIFF locates values by their positions in the file, and some positions are in fields that only their writer
understands. So existing bytes are not moved: the packet, and a directory that grows, are appended to the file.
"""

from __future__ import annotations

from captioner.metadata.container import Container, Piece, replaced
from captioner.metadata.ifd import IMAGE_DESCRIPTION, IPTC, PHOTOSHOP, XMP, Directories, Entry, as_text
from captioner.metadata.iptc import iim_descriptions, photoshop_descriptions
from captioner.metadata.source import Source

_STRIPS, _TILES = (273, 279), (324, 325)  # their positions and their sizes
_BYTE = 1
_DNG = 50706


class Tiff(Container):
    """A TIFF or BigTIFF file of one or several pages.

    Raises:
        ImageError: it is cut short or a directory is damaged.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._directories = Directories(source)
        pages = list(self._directories.pages())
        self._position, self._entries = pages[0]
        self.pixels = [each for _, entries in pages for each in self._image(entries)]
        tags = {entry.tag: entry for entry in self._entries}
        self.is_dng = _DNG in tags
        self._old = tags.get(XMP)
        value = self._directories.value
        if self._old is not None:
            self.packet = value(self._old)
        if IMAGE_DESCRIPTION in tags:
            self.descriptions.append(as_text(value(tags[IMAGE_DESCRIPTION])))
        if IPTC in tags:
            self.descriptions += iim_descriptions(value(tags[IPTC]))
        if PHOTOSHOP in tags:
            self.descriptions += photoshop_descriptions(value(tags[PHOTOSHOP]))

    def _image(self, entries: list[Entry]) -> list[range]:
        """Return where the strips or tiles of a page lie."""
        tags = {entry.tag: entry for entry in entries}
        found = []
        for positions, sizes in (_STRIPS, _TILES):
            if positions in tags and sizes in tags:
                starts, counts = (self._directories.numbers(tags[tag]) for tag in (positions, sizes))
                found += [range(start, start + count) for start, count in zip(starts, counts, strict=False) if count]
        ends = [each.stop for each in found] + [entry.where + entry.size for entry in entries]
        if max(ends) > self.source.size:
            raise self.source.fault("the file is cut short")
        return found

    def with_packet(self, packet: bytes) -> list[Piece]:
        form, old, size = self._directories, self._old, self.source.size
        if old is not None and form.inline < old.size and len(packet) <= old.size:
            return replaced(
                size, sorted([(old.where, old.where + len(packet), packet), self._count(old, len(packet), old.where)])
            )
        # An old packet at the end of the file, where this program puts it, makes room for the new one.
        end = old.where if old is not None and old.size > form.inline and old.where + old.size == size else size
        at = _aligned(end)
        if old is not None:
            self._check_size(at + len(packet))
            return replaced(end, [self._count(old, len(packet), at), (end, end, bytes(at - end) + packet)])
        directory_size = len(self._grown_directory(0, 0))
        packet_at = _aligned(at + directory_size)
        self._check_size(packet_at + len(packet))
        appended = bytes(at - end) + self._grown_directory(len(packet), packet_at)
        appended += bytes(packet_at - at - directory_size) + packet
        first = form.pack(form.offset, at)
        return replaced(size, [(form.first_at, form.first_at + len(first), first), (size, size, appended)])

    def _count(self, entry: Entry, count: int, where: int) -> tuple[int, int, bytes]:
        """Return the edit of an entry whose value becomes ``count`` bytes at position ``where``."""
        new = self._entry(count, where)
        return entry.position, entry.position + len(new), new

    def _entry(self, count: int, where: int) -> bytes:
        form = self._directories
        return form.pack("HH" + form.offset * 2, XMP, _BYTE, count, where)

    def _grown_directory(self, count: int, where: int) -> bytes:
        """Return the first directory with an entry for ``count`` bytes of XMP, in the order of tags."""
        form = self._directories
        old = [self.source.read(entry.position, form.entry_size) for entry in self._entries]
        place = next((n for n, entry in enumerate(self._entries) if entry.tag > XMP), len(old))
        old.insert(place, self._entry(count, where))
        following = form.pack(form.offset, form.following(self._position))
        return form.pack(form.counter, len(old)) + b"".join(old) + following

    def _check_size(self, size: int) -> None:
        if not self._directories.big and size > 0xFFFFFFFF:
            raise self.source.fault("with the caption it would exceed the 4 GiB of a TIFF file", "write an XMP sidecar")


def _aligned(position: int) -> int:
    """Return the next position that is a multiple of eight, as BigTIFF requires and TIFF allows."""
    return (position + 7) & ~7
