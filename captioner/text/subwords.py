"""Pieces of words and their numbers: byte-pair encoding, so that a vocabulary of a few thousand can write any text.

Pairs are merged in the order of their frequency (Sennrich 2016, https://arxiv.org/abs/1508.07909), beginning with the
256 bytes (Radford 2019, GPT-2). Nothing is unknown, and what is encoded comes back as it was: case, punctuation and
white space included.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from captioner import files
from captioner.errors import CheckpointError
from captioner.text.vocabulary import BOS, EOS, PAD, SPECIAL

FORMAT = 1
Pair: TypeAlias = tuple[int, int]

_FIRST_BYTE = len(SPECIAL)
_FIRST_MERGE = _FIRST_BYTE + 256
# Merges stay within a word with the space before it, a run of other marks with the space before it, or one white-space
# character. The bound keeps the work on an endless "word" small.
_CHUNK = re.compile(r" ?\w{1,40}| ?[^\w\s]{1,40}|\s")
_REMEMBERED = 100_000


class Subwords:
    """The pieces a model can write, each with its number; used as a :class:`~captioner.text.vocabulary.Vocabulary` is.

    Numbers 0 to 3 are ``<pad>``, ``<bos>``, ``<eos>`` and ``<unk>`` (which is never given), then come the 256 bytes,
    then the merges in order.

    Args:
        merges: pairs of numbers that become one piece; a pair may only name what stands before it.
    """

    def __init__(self, merges: Iterable[Pair]) -> None:
        self.merges: tuple[Pair, ...] = tuple(merges)
        self._numbers = {pair: number for number, pair in enumerate(self.merges, start=_FIRST_MERGE)}
        if len(self._numbers) != len(self.merges):
            raise ValueError("a pair cannot be merged twice")
        self.pieces: list[bytes] = [
            b"",
            b"",
            b"",
            "\N{REPLACEMENT CHARACTER}".encode(),
            *(bytes([byte]) for byte in range(256)),
        ]
        for left, right in self.merges:
            if not (_FIRST_BYTE <= left < len(self.pieces) and _FIRST_BYTE <= right < len(self.pieces)):
                raise ValueError(f"the pair {(left, right)} names a piece that is not made before it")
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self._known: dict[str, tuple[int, ...]] = {}

    @classmethod
    def learn(cls, texts: Iterable[str], *, merges: int = 8000) -> Subwords:
        """Merge what stands side by side most often in the texts (of the training split), at most ``merges`` times.

        Of equally frequent pairs the one with the smaller numbers comes first, so that the same texts, in any order,
        give the same pieces. Pairs seen only once are not merged.
        """
        chunks = Counter(chunk for text in texts for chunk in _chunks(text))
        words: list[Sequence[int]] = [_bytes(chunk) for chunk in chunks]
        weights = list(chunks.values())
        counts: Counter[Pair] = Counter()
        where: defaultdict[Pair, set[int]] = defaultdict(set)
        for index, (word, weight) in enumerate(zip(words, weights, strict=True)):
            for pair in pairwise(word):
                counts[pair] += weight
                where[pair].add(index)
        heap = [(-count, pair) for pair, count in counts.items()]
        heapq.heapify(heap)
        learned: list[Pair] = []
        while heap and len(learned) < merges:
            count, pair = heapq.heappop(heap)
            if counts[pair] != -count:  # an entry from before the count changed; the right one is in the heap as well
                continue
            if -count < 2:
                break
            change: Counter[Pair] = Counter()
            for index in where.pop(pair):
                word, weight = words[index], weights[index]
                merged = _merge(word, pair, _FIRST_MERGE + len(learned))
                for old in pairwise(word):
                    change[old] -= weight
                for new in pairwise(merged):
                    change[new] += weight
                    where[new].add(index)
                words[index] = merged
            learned.append(pair)
            for changed, by in change.items():
                if by:
                    counts[changed] += by
                    heapq.heappush(heap, (-counts[changed], changed))
        return cls(learned)

    def __len__(self) -> int:
        return len(self.pieces)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subwords) and self.merges == other.merges

    def __hash__(self) -> int:
        return hash(self.merges)

    def encode(self, text: str, *, max_words: int | None = None) -> list[int]:
        """Turn a text into ``[<bos>, pieces ..., <eos>]``; a text of more than ``max_words`` pieces is cut and has no ``<eos>``."""
        numbers = [number for chunk in _chunks(text) for number in self._encode(chunk)]
        if max_words is not None and len(numbers) > max_words:
            return [BOS, *numbers[:max_words]]
        return [BOS, *numbers, EOS]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Turn numbers into pieces, up to the first ``<eos>``, without ``<pad>`` and ``<bos>``; a piece that begins a word begins with a space."""
        return [piece.decode("utf-8", "replace") for piece in self._until_end(numbers)]

    def sentence(self, numbers: Iterable[int]) -> str:
        """Turn numbers into text: for those of :meth:`encode` what they were made of."""
        return b"".join(self._until_end(numbers)).decode("utf-8", "replace").removeprefix(" ")

    def _until_end(self, numbers: Iterable[int]) -> list[bytes]:
        pieces = []
        for number in numbers:
            if number == EOS:
                break
            if number not in (PAD, BOS):
                pieces.append(self.pieces[number])
        return pieces

    def _encode(self, chunk: str) -> tuple[int, ...]:
        """Merge the bytes of a chunk in the order in which the merges were learned."""
        known = self._known.get(chunk)
        if known is None:
            numbers = _bytes(chunk)
            while found := [self._numbers[pair] for pair in pairwise(numbers) if pair in self._numbers]:
                first = min(found)
                numbers = _merge(numbers, self.merges[first - _FIRST_MERGE], first)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[chunk] = tuple(numbers)
        return known

    def save(self, path: str | Path) -> None:
        """Write the pieces as JSON."""
        files.write_json(
            path, {"format": FORMAT, "kind": "byte pairs", "special": list(SPECIAL), "merges": self.merges}, indent=None
        )

    @classmethod
    def load(cls, path: str | Path) -> Subwords:
        """Read pieces that :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind, or newer than this program.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
            if value["format"] > FORMAT:
                raise CheckpointError(
                    f"{path}: vocabulary format {value['format']} is newer than this program; upgrade captioner"
                )
            if value["kind"] != "byte pairs" or value["special"] != list(SPECIAL):
                raise ValueError("it is not one of pieces of words")
            merges = [(left, right) for left, right in value["merges"]]
            if not all(type(number) is int for pair in merges for number in pair):
                raise ValueError("its merges are not pairs of numbers")
            return cls(merges)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: the vocabulary is missing; copy the whole model folder") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}: not a readable vocabulary ({error}); copy the model folder again"
            ) from error


def _chunks(text: str) -> list[str]:
    """Cut a text within which no merge goes; a space in front makes the first word like any other."""
    return _CHUNK.findall(f" {text}") if text else []


def _bytes(chunk: str) -> list[int]:
    return [_FIRST_BYTE + byte for byte in chunk.encode("utf-8", "replace")]


def _merge(word: Sequence[int], pair: Pair, made: int) -> list[int]:
    """Put the number ``made`` for every ``pair`` in a word, from left to right."""
    out: list[int] = []
    for number in word:
        # What was just made cannot be the left half of the same pair, since it stands after both in number.
        if out and (out[-1], number) == pair:
            out[-1] = made
        else:
            out.append(number)
    return out
