"""Words and their indices: tokenisation, the vocabulary, and sentences from indices."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from captioner import files
from captioner.errors import CheckpointError

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
FORMAT = 1
_COPY = "copy the whole model folder again"

# Chinese characters and kana, which have their own full stop; then Thai, Lao, Burmese and Khmer, which have none.
_EAST_ASIAN = "\u3005-\u3007\u3041-\u3096\u309d-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
_EAST_ASIAN += "\U00020000-\U000323af"
_SOUTH_EAST_ASIAN = "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"
_SPACELESS = _EAST_ASIAN + _SOUTH_EAST_ASIAN
_FOREIGN_PUNCTUATION = "[،؛؟۔।॥၊။។៕\u3000-\u3003\u3008-\u3011\u3014-\u301f・！-／：-＠［-｀｛-･]+"
_CONTRACTION = r"\s+(?=(?:n't|'s|'re|'ve|'ll|'d|'m)\b)"

_PLAIN = re.compile(r"(?: |[a-z0-9-]+[,.]?(?= |$)|[,.](?= |$))*")
_TREEBANK_SPLITS = re.compile(r"--|\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b")
_PUNCTUATION = frozenset(string.punctuation) | frozenset("“”‘’«»…–—")


@cache
def _treebank() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


# These patterns are compiled when a text needs them: each takes a millisecond, and plain English needs none.


@cache
def _character() -> re.Pattern[str]:
    """Match a character of a script without spaces, with its vowel signs and tone marks."""
    blocks = (range(0x0E00, 0x0F00), range(0x1000, 0x10A0), range(0x1780, 0x1800), (0x3099, 0x309A, 0xFF9E, 0xFF9F))
    codes = chain.from_iterable(blocks)
    marks = "".join(chr(code) for code in codes if unicodedata.category(chr(code))[0] == "M" or code > 0xFF00)
    return re.compile(f"[{_SPACELESS}][{marks}]*")


@cache
def _no_space(ascii: bool) -> re.Pattern[str]:
    """Match the spaces to remove from joined words: before contractions, and between characters of such a script."""
    return re.compile(_CONTRACTION if ascii else rf"{_CONTRACTION}|(?<=[{_SPACELESS}])\s+(?=[{_SPACELESS}])")


def _full_stop(text: str) -> str:
    """Return the full stop of the script of a sentence's last character."""
    if text.isascii():
        return "."
    return "。" if re.search(f"[{_EAST_ASIAN}]$", text) else "" if re.search(f"[{_SOUTH_EAST_ASIAN}]$", text) else "."


def space_characters(text: str) -> str:
    """Put spaces around each character of scripts without spaces between words; replace their punctuation by spaces.

    A character includes its vowel signs and tone marks. Chinese captions are scored in the same units. Text that is not
    ASCII is converted to Unicode's form NFC, as a word with an umlaut of two code points would be another word.
    """
    if text.isascii():
        return text
    return _character().sub(r" \g<0> ", re.sub(_FOREIGN_PUNCTUATION, " ", unicodedata.normalize("NFC", text)))


def tokenize(text: str) -> list[str]:
    """Split a caption into lower-cased words, without tokens of punctuation.

    The tokenizer is NLTK's Treebank-style one, which needs no downloaded data: ``"A dog's ball."`` gives ``["a", "dog",
    "'s", "ball"]``. Most captions consist of words, commas and full stops; they are split at spaces, with the same
    result but faster. In Chinese, Japanese, Thai, Lao, Burmese and Khmer, which do not separate words, each character
    is a word.
    """
    text = text.lower().replace("’", "'")
    if _PLAIN.fullmatch(text) and not _TREEBANK_SPLITS.search(text):
        return [word for word in (word.rstrip(",.") for word in text.split(" ")) if word.strip("-")]
    words = _treebank().tokenize(space_characters(text))
    # The Treebank rules split off a full stop only at the end of the text.
    words = [word.rstrip(".") if word.endswith(".") and word.count(".") == 1 else word for word in words]
    return [word for word in words if word and not all(character in _PUNCTUATION for character in word)]


def detokenize(words: Sequence[str]) -> str:
    """Join words into a sentence: contractions attached, first letter in upper case, a full stop at the end.

    Characters of scripts without spaces are joined. An empty list gives an empty string.
    """
    text = " ".join(words)
    text = _no_space(text.isascii()).sub("", text).strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + _full_stop(text)


def sentence_patterns() -> dict[str, Any]:
    """Return the regular expressions of :func:`detokenize`, for its implementation in JavaScript.

    Returns:
        ``spaces`` and, for ASCII, ``ascii_spaces``: regular expressions of the spaces to remove; ``stops``: pairs of a
        regular expression of the sentence's end and the full stop to add, of which the first match counts.
    """
    return {
        "spaces": _no_space(ascii=False).pattern,
        "ascii_spaces": _no_space(ascii=True).pattern,
        "stops": [[f"[{_EAST_ASIAN}]$", "。"], [f"[{_SOUTH_EAST_ASIAN}]$", ""], ["$", "."]],
    }


def spans(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return the (start, end) of each word in ``detokenize(words)``, in characters."""
    text = " ".join(words)
    removed = [match.span() for match in _no_space(text.isascii()).finditer(text)]
    added = len(text[:1].upper()) - len(text[:1])  # "ß" becomes "SS"
    result = []
    position = 0
    for number, word in enumerate(words):
        start = position - sum(end - begin for begin, end in removed if end <= position) + (added if number else 0)
        result.append((start, start + len(word) + (0 if number else added)))
        position += len(word) + 1
    return result


def with_bos_eos(indices: Sequence[int], max_words: int | None) -> list[int]:
    """Return ``[<bos>, indices ..., <eos>]``; cut after ``max_words`` indices, without ``<eos>``."""
    if max_words is not None and len(indices) > max_words:
        return [BOS, *indices[:max_words]]
    return [BOS, *indices, EOS]


def until_eos(indices: Iterable[int]) -> list[int]:
    """Return the indices up to the first ``<eos>``, without ``<pad>`` and ``<bos>``."""
    return [index for index in takewhile(lambda index: index != EOS, indices) if index not in (PAD, BOS)]


class Vocabulary:
    """The words of a model and their indices.

    Indices 0 to 3 are ``<pad>``, ``<bos>``, ``<eos>`` and ``<unk>``; words follow by decreasing frequency, then
    alphabetically, so the same captions always give the same indices.

    Args:
        words: the words in order, without the special ones.
        counts: the frequency of each word in the training captions, if known.
    """

    def __init__(self, words: Sequence[str], counts: Sequence[int] | None = None) -> None:
        self.words: tuple[str, ...] = (*SPECIAL, *words)
        self.counts: tuple[int, ...] | None = None if counts is None else tuple(counts)
        self._indices = {word: index for index, word in enumerate(self.words)}
        if len(self._indices) != len(self.words):
            raise ValueError("a vocabulary cannot contain a word twice")
        if self.counts is not None and len(self.counts) != len(words):
            raise ValueError(f"{len(words)} words but {len(self.counts)} counts")

    @classmethod
    def build(cls, captions: Iterable[str], *, min_count: int = 5) -> Vocabulary:
        """Build the vocabulary of the words that occur at least ``min_count`` times in the training captions."""
        counter: Counter[str] = Counter()
        for caption in captions:
            counter.update(tokenize(caption))
        kept = sorted(
            ((word, n) for word, n in counter.items() if n >= min_count), key=lambda pair: (-pair[1], pair[0])
        )
        return cls([word for word, _ in kept], [n for _, n in kept])

    def extended(self, other: Vocabulary) -> Vocabulary:
        """Return this vocabulary extended by the new words of another, in their order.

        The words of this vocabulary keep their indices. Each word keeps its count, so the counts of the new words are
        those in the captions of the other vocabulary.
        """
        new = [index for index, word in enumerate(other.words) if word not in self]
        counts = None
        if self.counts is not None and other.counts is not None:
            counts = (*self.counts, *(other.counts[index - len(SPECIAL)] for index in new))
        return Vocabulary([*self.words[len(SPECIAL) :], *(other.words[index] for index in new)], counts)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._indices

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def index(self, word: str) -> int:
        """Return a word's index, or that of ``<unk>``."""
        return self._indices.get(word, UNK)

    def encode(self, caption: str, *, max_words: int | None = None) -> list[int]:
        """Encode a caption as ``[<bos>, words ..., <eos>]``; cut after ``max_words`` words, without ``<eos>``."""
        return with_bos_eos([self.index(word) for word in tokenize(caption)], max_words)

    def decode(self, indices: Iterable[int]) -> list[str]:
        """Return the words up to the first ``<eos>``, without ``<pad>`` and ``<bos>``."""
        return [self.words[index] for index in until_eos(indices)]

    def sentence(self, indices: Iterable[int]) -> str:
        """Return the detokenised sentence."""
        return detokenize(self.decode(indices))

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON."""
        value = {"format": FORMAT, "special": list(SPECIAL), "words": list(self.words[len(SPECIAL) :])}
        if self.counts is not None:
            value["counts"] = list(self.counts)
        files.write_json(path, value, indent=None)

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read the file of :meth:`save`.

        Raises:
            CheckpointError: the file is missing, damaged, or newer than this program.
        """
        value = read_vocabulary(path, FORMAT)
        words: Any = value.get("words")
        counts: Any = value.get("counts")
        try:
            if not _is_list_of(words, str):
                raise ValueError("its words are not a list of texts")
            if counts is not None and not _is_list_of(counts, int):
                raise ValueError("its counts are not a list of integers")
            "".join(words).encode()  # half a surrogate pair could not be printed
            if " ".join(words).split() != words:
                raise ValueError("a word of it is empty or has white space, which would break a caption in two")
            return cls(words, counts)
        except ValueError as error:
            raise unreadable(path, error) from None


def read_vocabulary(path: str | Path, newest: int) -> dict[str, Any]:
    """Read the file of a vocabulary of any kind, and check its format, at most ``newest``, and special words.

    Raises:
        CheckpointError: the file is missing, damaged, or newer than this program.
    """
    value = files.read_json(path, dict, error=CheckpointError, advice=_COPY)
    if type(value.get("format")) is not int:
        raise unreadable(path, "it has no format")
    if value["format"] > newest:
        raise CheckpointError(
            f"{path}: vocabulary format {value['format']} is newer than this program; upgrade captioner"
        )
    if value.get("special") != list(SPECIAL):
        raise unreadable(path, "its special words are not this program's")
    return value


def unreadable(path: str | Path, reason: object) -> CheckpointError:
    """Return the error of a vocabulary that is damaged."""
    return CheckpointError(f"{path}: not a readable vocabulary ({reason}); {_COPY}")


def _is_list_of(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)
