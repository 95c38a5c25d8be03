"""CIDEr-D (Vedantam 2015, https://arxiv.org/abs/1411.5726) of word indices, fast enough for a reward.

For n from 1 to 4, a caption is a vector of its n-grams' weights ``g_k = count_k (log I - log df_k)``, where I is the
number of images and df_k the number of images whose references contain the n-gram (at least 1). For a candidate c and
each reference s of its image

    CIDEr-D_n = exp(-(l_c - l_s)^2 / (2 sigma^2)) sum_k min(g_k(c), g_k(s)) g_k(s) / (|g(c)| |g(s)|)

and the score is 10 times the mean over references and n. As in pycocoevalcap, counts are not divided by the caption's
length, and sigma is 6.

An n-gram is encoded as one 64-bit integer, the n-grams of all references are in flat sorted arrays, and the candidates
of a whole batch are scored by a few searches in these arrays.

Letters in shapes: H candidates, T words of the longest caption, E entries (a caption's distinct n-grams).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from captioner.caption import Array
from captioner.errors import EvaluationError
from captioner.evaluation.sums import ORDERS


class _Counts(NamedTuple):
    """The distinct n-grams of captions, caption by caption: four arrays (E,), and the captions' lengths."""

    caption: Array  # index of the caption
    key: Array  # the n-gram as an integer
    order: Array  # n - 1
    times: Array  # occurrences in the caption
    length: Array  # (captions,)


class CiderD:
    """Scores candidates against the references of a fixed set of images.

    Args:
        references: one or more captions for each image, each a sequence of word indices from 1 on; they also give the
            document frequencies.
        words: upper bound of the candidates' word indices, if it is above the largest in the references.
        sigma: width of the penalty on different lengths.

    Raises:
        EvaluationError: an image has no reference, or there are too many different words for 64 bits.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], *, words: int = 0, sigma: float = 6.0) -> None:
        if not references or not all(references):
            raise EvaluationError("CIDEr-D needs at least one image, and at least one reference for each")
        flat = [caption for captions in references for caption in captions]
        self.sigma = sigma
        self.base = max(words, 1 + max(max(caption, default=0) for caption in flat))
        if self.base**ORDERS >= 2**63:
            raise EvaluationError(
                f"CIDEr-D can distinguish {int(2 ** (63 / ORDERS)) - 1:,} words, and there are {self.base - 1:,}"
            )
        number = [len(captions) for captions in references]
        self.first = np.cumsum([0, *number])  # index of each image's first reference
        counts = self._count(_padded(flat))
        image = np.repeat(np.arange(len(references)), number)[counts.caption]
        # Document frequencies count every pair of an n-gram and an image once.
        self.keys, gram = np.unique(counts.key, return_inverse=True)
        pairs = np.unique(gram.astype(np.int64) * len(references) + image)
        self.images = len(references)
        self.idf = np.log(self.images) - np.log(np.bincount(pairs // len(references), minlength=len(self.keys)))
        self.gram, self.count = gram.astype(np.int32), counts.times.astype(np.int16)
        self.order = counts.order.astype(np.int8)
        self.offset = np.searchsorted(counts.caption, np.arange(len(flat) + 1))
        self.length = counts.length
        self.norm = _norms(counts.caption, counts.order, counts.times * self.idf[gram], len(flat))

    def __call__(self, images: Sequence[int], candidates: Array) -> Array:
        """Return the score of each candidate, from 0 to 10, (H,) float64.

        Args:
            images: image index of each of the H candidates.
            candidates: (H, T) word indices, each candidate padded with zeros.

        Raises:
            EvaluationError: an image index is out of range.
        """
        chosen = np.asarray(images, dtype=np.int64)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= self.images):
            raise EvaluationError(
                f"CIDEr-D: there are references of images 0 to {self.images - 1}, "
                f"not of {chosen.min()} to {chosen.max()}"
            )
        counts = self._count(np.asarray(candidates))
        # An n-gram that is in no reference cannot match, but adds to the norm.
        gram = np.searchsorted(self.keys, counts.key)
        known = gram < len(self.keys)
        known[known] = self.keys[gram[known]] == counts.key[known]
        weight = counts.times * np.log(self.images)
        weight[known] = counts.times[known] * self.idf[gram[known]]
        norm = _norms(counts.caption, counts.order, weight, len(chosen))

        # Every candidate with each reference of its image, and the n-grams of these references concatenated.
        candidate, reference = _expand(self.first[chosen], self.first[chosen + 1])
        pair, entry = _expand(self.offset[reference], self.offset[reference + 1])
        reference_weight = self.count[entry] * self.idf[self.gram[entry]]
        # The candidates' weights of the same n-grams, by binary search: they are sorted by candidate and n-gram.
        position, weights = counts.caption[known] * np.int64(len(self.keys)) + gram[known], weight[known]
        wanted = candidate[pair] * np.int64(len(self.keys)) + self.gram[entry]
        index = np.searchsorted(position, wanted)
        same = index < len(position)
        same[same] = position[index[same]] == wanted[same]
        product = np.minimum(weights[index[same]], reference_weight[same]) * reference_weight[same]
        size = len(candidate) * ORDERS
        similarity = (
            np.bincount(pair[same] * ORDERS + self.order[entry[same]], weights=product, minlength=size)
            .reshape(-1, ORDERS)
            .astype(np.float64)
        )
        norms = norm[candidate] * self.norm[reference]
        similarity = np.divide(similarity, norms, out=np.zeros_like(similarity), where=norms > 0)
        difference = counts.length[candidate] - self.length[reference]
        similarity *= np.exp(-(difference**2) / (2 * self.sigma**2))[:, None]
        total = np.bincount(candidate, weights=similarity.mean(1), minlength=len(chosen))
        scores: Array = 10.0 * total / np.maximum(1, self.first[chosen + 1] - self.first[chosen])
        return scores

    def _count(self, captions: Array) -> _Counts:
        """Count the n-grams of captions (H, T), each padded with zeros; sorted by caption."""
        real = captions > 0
        words = captions.astype(np.int64)
        if words.size and words.max() >= self.base:
            raise EvaluationError(
                f"CIDEr-D: a candidate has the number {words.max()}, above the largest allowed, {self.base - 1}"
            )
        owners, keys, orders = [], [], []
        key = np.zeros_like(words)
        for n in range(1, min(ORDERS, captions.shape[1]) + 1):
            # The n-gram at each position, first word most significant; shorter n-grams have smaller numbers.
            key = key[:, : captions.shape[1] - n + 1] * self.base + words[:, n - 1 :]
            owner, position = np.nonzero(real[:, n - 1 :])
            owners.append(owner)
            keys.append(key[owner, position])
            orders.append(np.full(len(owner), n - 1))
        owner, every, order = (
            np.concatenate(parts) if parts else np.zeros(0, np.int64) for parts in (owners, keys, orders)
        )
        ranks = np.lexsort((every, owner))
        owner, every, order = owner[ranks], every[ranks], order[ranks]
        new = np.ones(len(owner), dtype=bool)
        new[1:] = (owner[1:] != owner[:-1]) | (every[1:] != every[:-1])
        begins = np.flatnonzero(new)
        count = np.diff(np.append(begins, len(owner)))
        # pycocoevalcap takes the number of bigrams as a caption's length.
        return _Counts(owner[begins], every[begins], order[begins], count, np.maximum(0, real.sum(1) - 1))


def _padded(captions: Sequence[Sequence[int]]) -> Array:
    """Return captions as an array (captions, T), each padded with zeros."""
    out = np.zeros((len(captions), max(1, max(map(len, captions)))), dtype=np.int64)
    for row, caption in enumerate(captions):
        out[row, : len(caption)] = caption
    return out


def _norms(caption: Array, order: Array, weight: Array, captions: int) -> Array:
    """Return the norm of each caption's n-gram vector for each n, (captions, ORDERS)."""
    squares = np.bincount(caption * ORDERS + order, weights=weight**2, minlength=captions * ORDERS)
    norms: Array = np.sqrt(squares).reshape(captions, ORDERS)
    return norms


def _expand(first: Array, last: Array) -> tuple[Array, Array]:
    """Concatenate ranges: return for each element the index of its range, and the element."""
    sizes = last - first
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(first, sizes)
