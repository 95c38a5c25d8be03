"""Ranking photos by how well a sentence describes them.

The score of a photo x for a sentence s of T words is the score of s in a search, relative to the mean of all photos,
plus a term for the texts of people:

    score(x) = [log p(s | x) - log p(s | mean)] / T^a  +  b [CIDEr(s, x) - CIDEr(s, mean)]  +  c BM25(s, x)

a and b are the search settings ``length_normalisation`` and ``consensus`` of the model. The decoder gives p(s | x) by
teacher forcing, the model's consensus the expected CIDEr (:mod:`captioner.search.consensus`), SQLite the
BM25. Without a consensus b is 0. The division by p(s | mean) leaves the order as it is; it makes scores of different
sentences comparable, and 0 means no more likely than for the mean.

The consensus is linear and takes microseconds for a photo, the decoder milliseconds. So the sum of the second and the
third term chooses :data:`CANDIDATES` photos, and only these are scored by the decoder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from captioner.caption import Array
from captioner.captioner import Captioner
from captioner.errors import CaptionerError
from captioner.retrieval.index import PhotoIndex
from captioner.text.vocabulary import UNK, tokenize

CANDIDATES = 200
"""Photos that the decoder scores for a sentence."""

BM25_WEIGHT = 0.2
"""c; chosen on COCO dev (docs/howto/find.md). The best for captions that the model itself wrote is 0."""


def words_of(sentence: str) -> list[str]:
    """Return the words of a description.

    Raises:
        CaptionerError: it has none.
    """
    words = tokenize(sentence)
    if not words:
        raise CaptionerError(f"{sentence!r}: has no words; give a description, such as 'dog on a beach'")
    return words


@dataclass(frozen=True)
class Hit:
    """A photo that was found.

    Attributes:
        path: its file.
        score: see :mod:`captioner.retrieval.ranking`.
        text: the texts that belong to it, one in each line.
    """

    path: Path
    score: float
    text: str


class Finder:
    """Finds photos in an index. Call :meth:`PhotoIndex.update` on it first.

    Args:
        index: of the photos.
        captioner: the model by which they were encoded.
    """

    def __init__(self, index: PhotoIndex, captioner: Captioner) -> None:
        self._index, self._captioner = index, captioner
        self._names, self._parts = index.names(), index.parts()

    @cached_property
    def _mean(self) -> Array:
        return self._parts.mean(0, keepdims=True)

    @cached_property
    def _codes(self) -> Array | None:
        """Codes of the photos and, last, of their mean."""
        consensus = self._captioner.engine.consensus
        return None if consensus is None else consensus.codes(np.concatenate([self._parts, self._mean]).mean(1))

    def unknown(self, sentence: str) -> list[str]:
        """Return the words outside the model's vocabulary, by which photos are found only through their texts."""
        vocabulary = self._captioner.vocabulary
        return [word for word in tokenize(sentence) if word not in vocabulary]

    def find(self, sentence: str, number: int = 10) -> list[Hit]:
        """Return the photos that a sentence describes best, best first.

        Photos whose texts have more of the words outside the vocabulary come first.

        Args:
            sentence: a description, or some words.
            number: the most photos to return.

        Raises:
            CaptionerError: the sentence has no words.
        """
        words = words_of(sentence)
        if not self._names:
            return []
        unknown = self.unknown(sentence)
        known = [word for word in words if word not in unknown]
        bm25 = self._index.texts.matches(words, own=False)
        score = BM25_WEIGHT * np.array([bm25.get(name, 0.0) for name in self._names])
        having = [self._index.texts.matches([word]) for word in dict.fromkeys(unknown)]
        named = np.array([sum(name in each for each in having) for name in self._names])
        chosen = np.flatnonzero(named)
        if known:
            engine = self._captioner.engine
            numbers = self._captioner.vocabulary.encode(" ".join(known), max_words=engine.most_words)
            score += self._expected_cider(numbers)
            order = np.lexsort((-score, -named))
            chosen = order if self._codes is None else order[: max(CANDIDATES, 2 * number)]
            score[chosen] += self._likelihood(numbers, chosen)
        best = chosen[np.lexsort((-score[chosen], -named[chosen]))][:number]
        return [self._hit(self._names[row], score[row]) for row in best]

    def _hit(self, name: bytes, score: float) -> Hit:
        return Hit(self._index.folder / os.fsdecode(name), float(score), self._index.texts.of(name))

    def _expected_cider(self, numbers: list[int]) -> Array:
        consensus = self._captioner.engine.consensus
        if consensus is None or self._codes is None:
            return np.zeros(len(self._names), np.float32)
        found = consensus.expected_cider_of_images(self._codes, [number for number in numbers if number > UNK])
        weighted: Array = self._captioner.search.consensus * (found[:-1] - found[-1])
        return weighted

    def _likelihood(self, numbers: list[int], chosen: Array) -> Array:
        found = self._captioner.engine.log_likelihoods(np.concatenate([self._parts[chosen], self._mean]), numbers)
        likelihood: Array = self._captioner.search.normalise(found[:-1] - found[-1], len(numbers) - 1)
        return likelihood
