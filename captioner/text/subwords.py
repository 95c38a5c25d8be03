"""Subword vocabularies: byte-pair encoding, so that a few thousand pieces can write any text.

The library ``tokenizers`` learns and applies the merges (Sennrich 2016, https://arxiv.org/abs/1508.07909), which begin
with the 256 bytes (Radford 2019, GPT-2). Nothing is unknown, and decoding returns the encoded text unchanged: case,
punctuation and white space included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from captioner import files
from captioner.text.vocabulary import BOS, EOS, PAD, SPECIAL, UNK, read_vocabulary, unreadable

FORMAT = 1
Merge: TypeAlias = tuple[str, str]

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # one printable character for each of the 256 bytes
# Merges stay within a word with the space before it, a run of other marks with the space before it, or one white-space
# character. The bound keeps the work on an endless "word" small.
_CHUNK = r" ?\w{1,40}| ?[^\w\s]{1,40}|\s"


class Subwords:
    """The pieces a model can write, each with its number; used like a :class:`~captioner.text.vocabulary.Vocabulary`.

    Numbers 0 to 3 are ``<pad>``, ``<bos>``, ``<eos>`` and ``<unk>`` (which is never produced), then come the 256 bytes,
    then the merges in order.

    Args:
        merges: pairs of pieces that become one, in the byte-level characters of ``tokenizers``; each piece of a pair is
            a byte or an earlier merge.

    Raises:
        ValueError: a pair occurs twice or names a piece that does not exist before it.
    """

    def __init__(self, merges: Iterable[Merge]) -> None:
        self.merges: tuple[Merge, ...] = tuple(merges)
        vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *_ALPHABET])}
        for left, right in self.merges:
            if left in SPECIAL or right in SPECIAL or left not in vocabulary or right not in vocabulary:
                raise ValueError(f"the pair {(left, right)} names a piece that does not exist before it")
            if left + right in vocabulary:
                raise ValueError(f"the pair {(left, right)} makes a piece that exists before it")
            vocabulary[left + right] = len(vocabulary)
        self._tokenizer = _tokenizer(models.BPE(vocabulary, list(self.merges)))

    @classmethod
    def learn(cls, texts: Iterable[str], *, merges: int = 8000) -> Subwords:
        """Merge the most frequent neighbours in the texts (of the training split), at most ``merges`` times.

        Of equally frequent pairs the one with the smaller numbers comes first, so that the same texts, in any order,
        give the same pieces. Pairs seen only once are not merged.
        """
        learner = _tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=len(SPECIAL) + len(_ALPHABET) + merges,
            min_frequency=2,
            special_tokens=list(SPECIAL),
            initial_alphabet=_ALPHABET,
            show_progress=False,
        )
        learner.train_from_iterator(map(_prepared, texts), trainer)
        return cls((left, right) for left, right in json.loads(learner.to_str())["model"]["merges"])

    def __len__(self) -> int:
        size: int = self._tokenizer.get_vocab_size()
        return size

    @property
    def pieces(self) -> list[str]:
        """All pieces as text, in the order of their numbers; bytes that are no text by themselves are replaced."""
        return [*SPECIAL, *(self._text([number]) for number in range(len(SPECIAL), len(self)))]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subwords) and self.merges == other.merges

    def __hash__(self) -> int:
        return hash(self.merges)

    def encode(self, text: str, *, max_words: int | None = None) -> list[int]:
        """Encode a text as ``[<bos>, pieces ..., <eos>]``; after ``max_words`` pieces it is cut, without ``<eos>``."""
        numbers: list[int] = self._tokenizer.encode(_prepared(text)).ids
        if max_words is not None and len(numbers) > max_words:
            return [BOS, *numbers[:max_words]]
        return [BOS, *numbers, EOS]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Return the pieces up to the first ``<eos>``, without ``<pad>`` and ``<bos>``; a space begins a word."""
        return [self._text([number]) for number in _until_end(numbers)]

    def sentence(self, numbers: Iterable[int]) -> str:
        """Return the text that numbers encode."""
        return self._text(_until_end(numbers)).removeprefix(" ")

    def _text(self, numbers: list[int]) -> str:
        pieces = [
            "\N{REPLACEMENT CHARACTER}" if number == UNK else self._tokenizer.id_to_token(number) for number in numbers
        ]
        text: str = self._tokenizer.decoder.decode(pieces)
        return text

    def save(self, path: str | Path) -> None:
        """Write the merges as JSON."""
        value = {"format": FORMAT, "kind": "byte pairs", "special": list(SPECIAL), "merges": self.merges}
        files.write_json(path, value, indent=None)

    @classmethod
    def load(cls, path: str | Path) -> Subwords:
        """Read a vocabulary that :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind, or newer than this program.
        """
        value = read_vocabulary(path, FORMAT)
        if value.get("kind") != "byte pairs":
            raise unreadable(path, "not a subword vocabulary")
        try:
            merges = [(left, right) for left, right in value.get("merges", [None])]
            if not all(isinstance(piece, str) for pair in merges for piece in pair):
                raise ValueError("its merges are not pairs of pieces")
            return cls(merges)
        except (ValueError, TypeError) as error:
            raise unreadable(path, error) from None


def _tokenizer(model: models.BPE) -> Tokenizer:
    # The special pieces are no added tokens of the tokenizer, so that a text that spells one is encoded as any other.
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CHUNK), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _prepared(text: str) -> str:
    """Put a space in front, so that the first word is like any other; half a surrogate pair becomes a question mark."""
    return (f" {text}" if text else "").encode("utf-8", "replace").decode()


def _until_end(numbers: Iterable[int]) -> list[int]:
    read = []
    for number in numbers:
        if number == EOS:
            break
        if number not in (PAD, BOS):
            read.append(number)
    return read
