"""Choosing among the hypotheses of a search by the n-grams that people are expected to use for the image.

CIDEr compares a caption c with people's captions by the cosine of their tf-idf vectors g_n, for n = 1 to 4 (Vedantam
2015, https://arxiv.org/abs/1411.5726, equations 1 to 3):

    CIDEr(c) = 1/4 sum_n mean_s  g_n(c) . g_n(s) / (|g_n(c)| |g_n(s)|)

It is linear in the mean of the normalised vectors of people's captions s. A prediction of that mean from the image
therefore gives the expected CIDEr of any caption, and choosing the hypothesis with the highest one is minimum Bayes
risk decoding (Kumar and Byrne 2004). Devlin 2015 (https://arxiv.org/abs/1505.04467) takes the captions of the nearest
training images instead of a prediction; here a regression makes it (:mod:`captioner.model.consensus`).

Letters in shapes: B images, M n-grams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from captioner.caption import Array
from captioner.search.config import Hypothesis, SearchConfig

LONGEST = 4  # n-grams of 1 to 4 words


class Ngrams:
    """The n-grams whose weight is predicted, with their inverse document frequencies.

    Args:
        words: (M, 4) word numbers of each n-gram, 0 after its end.
        idf: (M,) inverse document frequencies.
        images: the number of images that they were counted in; any other n-gram counts as if it were in one of them.
    """

    def __init__(self, words: Array, idf: Array, images: int) -> None:
        self.numbers = {tuple(number for number in ngram if number): row for row, ngram in enumerate(words.tolist())}
        self.idf, self.unknown = idf.tolist(), math.log(max(images, 2))

    def agreement(self, words: Sequence[int], expected: Array) -> float:
        """Return the expected CIDEr of a caption, from 0 to about 1.

        Args:
            words: the caption's word numbers.
            expected: (M,) the predicted mean of the normalised vectors of people's captions.
        """
        total = 0.0
        for counts in ngram_counts(words):
            product = square = 0.0
            for ngram, count in counts.items():
                row = self.numbers.get(ngram)
                weight = count * (self.unknown if row is None else self.idf[row])
                square += weight * weight
                if row is not None:
                    product += weight * float(expected[row])
            total += product / math.sqrt(square) if square else 0.0
        return total / LONGEST


def ngram_counts(words: Sequence[int]) -> list[Counter[tuple[int, ...]]]:
    """Count the n-grams of a caption, for each n from 1 to 4."""
    return [
        Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1)) for n in range(1, LONGEST + 1)
    ]


def candidates(config: SearchConfig) -> SearchConfig:
    """Return the settings of a search that keeps all hypotheses of its beam, for :func:`rerank`."""
    return config.model_copy(update={"n_best": config.width})


def rerank(
    found: Sequence[Sequence[Hypothesis]], agreements: Sequence[Sequence[float]], config: SearchConfig
) -> list[list[Hypothesis]]:
    """Rank the hypotheses of each image by ``score + consensus * agreement``, and keep the ``n_best``.

    Unfinished hypotheses stay behind all finished ones.

    Args:
        found: the hypotheses of B images, as searched with :func:`candidates`.
        agreements: :meth:`Ngrams.agreement` of each.
        config: the settings of the search.
    """
    ranked = []
    for hypotheses, own in zip(found, agreements, strict=True):
        scored = [
            replace(hypothesis, score=hypothesis.score + config.consensus * agreement)
            for hypothesis, agreement in zip(hypotheses, own, strict=True)
        ]
        scored.sort(key=lambda hypothesis: (hypothesis.finished, hypothesis.score), reverse=True)
        ranked.append(scored[: config.n_best])
    return ranked
