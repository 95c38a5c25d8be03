"""The encodings of caption files, as spreadsheets and editors write them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path

from captioner.errors import AnnotationError

MAX_FILE_BYTES = 4 << 30
"""Limit of the size of a caption file, in bytes; the largest of COCO's has 0.1 GB."""

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins with UTF-16's
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_KINDS = {
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or export the sheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "a spreadsheet; export the sheet as CSV in UTF-8",
    b"\x1f\x8b": "compressed by gzip; unpack it with gunzip",
    b"BZh": "compressed by bzip2; unpack it with bunzip2",
    b"\xfd7zXZ": "compressed by xz; unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it with unzstd",
    b"PAR1": "a Parquet file; write its columns image and caption as CSV",
    b"SQLite format 3": "a database; write its columns image and caption as CSV",
    b"%PDF": "a PDF document; give a caption file",
    b"\xff\xd8\xff": "an image; give a caption file",
    b"\x89PNG": "an image; give a caption file",
}
# The letters and punctuation beyond ASCII of Western European languages. The other characters of Windows-1252 appear if
# text in another encoding is read: Cyrillic, Greek, Polish, Czech, Turkish, Chinese, or an old Mac's.
_WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØŒÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøœùúûüÿ‘’‚“”„–—…«»°€£§©®™·•¡¿ºª½¼¾²³×´\xa0\xad"
)
_HIGH_BYTES = re.compile(rb"[\x80-\xff]{4}")
_MIN_NOT_UTF8 = 8  # bytes that are not UTF-8: fewer are damage, more are another encoding


def check_text(start: bytes, file: Path) -> None:
    """Check by its first bytes that a file is text.

    Raises:
        AnnotationError: it is not; the error names its format.
    """
    for magic, kind in _KINDS.items():
        if start.startswith(magic):
            raise AnnotationError(f"{file}: is {kind}")
    if b"\0" in start and not start.startswith(tuple(_BYTE_ORDER_MARKS)):
        halves = start[::2].count(0), start[1::2].count(0)
        if max(halves) > len(start) // 4 and not min(halves):
            raise AnnotationError(f"{file}: is UTF-16 without a mark at its start; save it as UTF-8")
        raise AnnotationError(f"{file}: is not text, since it has zero bytes; give a caption file")


def decode(raw: bytes, file: Path | None = None, note: Callable[[str], object] = lambda text: None) -> str:
    """Decode text in UTF-8, in UTF-16 or UTF-32 with a mark, or in Windows-1252, which includes Latin-1's letters.

    A few bytes that are not UTF-8 become lone surrogates; :func:`~captioner.data.annotations.source.as_text` refuses
    the records that contain them.

    Args:
        raw: the bytes of a file, or of its start.
        file: the whole file, for messages; without it, nothing is refused.
        note: called with a sentence if the encoding was guessed.

    Raises:
        AnnotationError: the text is in none of these encodings.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding.startswith("utf-8"):
            return _not_utf8(raw, file, note, error) if file else raw.decode(encoding, "surrogateescape")
        if file:
            raise AnnotationError(
                f"{file}: is not {encoding.upper()} text to its end ({error.reason} at byte {error.start:,}); "
                "copy it again, or save it as UTF-8"
            ) from None
        return raw.decode(encoding, "replace")


def _not_utf8(raw: bytes, file: Path, note: Callable[[str], object], error: UnicodeDecodeError) -> str:
    text = raw.decode("utf-8-sig", "surrogateescape")
    high, bad = sum(byte > 127 for byte in raw), sum("\udc80" <= letter <= "\udcff" for letter in text)
    if raw.startswith(codecs.BOM_UTF8) or bad < high / 10:  # damaged UTF-8; two thirds of GBK may be valid by chance
        return text
    western = "" if bad < high or _HIGH_BYTES.search(raw) else raw.decode("cp1252", "replace")
    if western and all(letter in _WESTERN for letter in set(western) if not letter.isascii()):
        letters = (word for word in re.split(r"[\s,;|\"]+", western) if not word.isascii())
        example = next(letters, "\xa0")  # the one mark beyond ASCII that is a space
        note(
            f"{file}: is not UTF-8 and was read as Windows-1252, with words such as {example!r}; "
            "if that is wrong, save it as UTF-8"
        )
        return western
    if bad >= _MIN_NOT_UTF8:
        line = raw.count(b"\n", 0, error.start) + 1
        raise AnnotationError(
            f"{file}:{line}: is not UTF-8 (byte 0x{raw[error.start]:x}), nor a Western European encoding; "
            "save it as UTF-8, for example by: iconv -f WINDOWS-1251 -t UTF-8, with the name of its encoding"
        )
    return text
