"""Subword vocabularies: byte-pair encoding, which represents any text with a few thousand pieces.

The library ``tokenizers`` learns and applies the merges (Sennrich 2016, https://arxiv.org/abs/1508.07909), starting
from the 256 bytes (Radford 2019, GPT-2). Decoding returns any text unchanged, with case, punctuation and white space.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from captioner import files
from captioner.text.vocabulary import SPECIAL, UNK, read_vocabulary, unreadable, until_eos, with_bos_eos

FORMAT = 1
Merge: TypeAlias = tuple[str, str]

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # one printable character for each of the 256 bytes
# Merges stay within a word or a run of punctuation, with the space before it, or a white-space character. The limit of
# 40 characters bounds the work on a very long "word".
_CHUNK = r" ?\w{1,40}| ?[^\w\s]{1,40}|\s"


class Subwords:
    """The pieces of a model and their indices, used like a :class:`~captioner.text.vocabulary.Vocabulary`.

    Indices 0 to 3 are ``<pad>``, ``<bos>``, ``<eos>`` and ``<unk>`` (never produced); the 256 bytes and the merges
    follow.

    Args:
        merges: pairs of pieces to join, in the byte-level characters of ``tokenizers``; each piece is a byte or an
            earlier merge.

    Raises:
        ValueError: a pair occurs twice or names a piece that does not exist before it.
    """

    def __init__(self, merges: Iterable[Merge]) -> None:
        self.merges: tuple[Merge, ...] = tuple(merges)
        vocabulary = {piece: index for index, piece in enumerate([*SPECIAL, *_ALPHABET])}
        for left, right in self.merges:
            if left in SPECIAL or right in SPECIAL or left not in vocabulary or right not in vocabulary:
                raise ValueError(f"the pair {(left, right)} names a piece that does not exist before it")
            if left + right in vocabulary:
                raise ValueError(f"the pair {(left, right)} makes a piece that exists before it")
            vocabulary[left + right] = len(vocabulary)
        self._tokenizer = _tokenizer(models.BPE(vocabulary, list(self.merges)))

    @classmethod
    def learn(cls, texts: Iterable[str], *, merges: int = 8000) -> Subwords:
        """Merge the most frequent neighbours in the training texts, at most ``merges`` times.

        Of equally frequent pairs, that with the smaller indices is merged first, so the order of the texts does not
        matter.
        Pairs that occur once are not merged.
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
        """All pieces as text, in the order of their indices; bytes that are not characters are replaced."""
        return [*SPECIAL, *(self._text([index]) for index in range(len(SPECIAL), len(self)))]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subwords) and self.merges == other.merges

    def __hash__(self) -> int:
        return hash(self.merges)

    def encode(self, text: str, *, max_words: int | None = None) -> list[int]:
        """Encode a text as ``[<bos>, pieces ..., <eos>]``; cut after ``max_words`` pieces, without ``<eos>``."""
        return with_bos_eos(self._tokenizer.encode(_prepared(text)).ids, max_words)

    def decode(self, indices: Iterable[int]) -> list[str]:
        """Return the pieces up to the first ``<eos>``, without ``<pad>`` and ``<bos>``; a space begins a word."""
        return [self._text([index]) for index in until_eos(indices)]

    def sentence(self, indices: Iterable[int]) -> str:
        """Return the encoded text."""
        return self._text(until_eos(indices)).removeprefix(" ")

    def _text(self, indices: list[int]) -> str:
        pieces = [
            "\N{REPLACEMENT CHARACTER}" if index == UNK else self._tokenizer.id_to_token(index) for index in indices
        ]
        text: str = self._tokenizer.decoder.decode(pieces)
        return text

    def save(self, path: str | Path) -> None:
        """Write the merges as JSON."""
        value = {"format": FORMAT, "kind": "byte pairs", "special": list(SPECIAL), "merges": self.merges}
        files.write_json(path, value, indent=None)

    @classmethod
    def load(cls, path: str | Path) -> Subwords:
        """Read the file of :meth:`save`.

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
    # The special pieces are not added as tokens, so a text that contains "<bos>" is encoded like any other text.
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
    """Put a space before the first word, as before the others; half a surrogate pair becomes a question mark."""
    return (f" {text}" if text else "").encode("utf-8", "replace").decode()
