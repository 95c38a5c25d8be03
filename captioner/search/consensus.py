"""Choosing among the hypotheses of a search by the n-grams that people are expected to use for the image.

CIDEr compares a caption c with people's captions by the cosine of their tf-idf vectors g_n, for n = 1 to 4 (Vedantam
2015, https://arxiv.org/abs/1411.5726, equations 1 to 3):

    CIDEr(c) = 1/4 sum_n mean_s  g_n(c) . g_n(s) / (|g_n(c)| |g_n(s)|)

It is linear in the mean of the normalised vectors of people's captions s. A prediction of that mean from the image
therefore gives the expected CIDEr of any caption, and choosing the hypothesis with the highest one is minimum Bayes
risk decoding (Kumar and Byrne 2004). As in CIDEr-D, an n-gram that the caption repeats counts once in the product, but
each time in the caption's norm, so repetition is not rewarded. Devlin 2015 (https://arxiv.org/abs/1505.04467) takes the
captions of the nearest training images instead of a prediction; here a regression makes it
(:mod:`captioner.model.consensus`).

Letters in shapes: B images, M n-grams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from captioner.caption import Array
from captioner.search.config import Hypothesis, SearchConfig

LONGEST = 4  # n-grams of 1 to 4 words


class Ngrams:
    """The predicted n-grams and their inverse document frequencies.

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
                idf = self.unknown if row is None else self.idf[row]
                square += (count * idf) ** 2
                if row is not None:
                    product += idf * float(expected[row])
            total += product / math.sqrt(square) if square else 0.0
        return total / LONGEST


def ngram_counts(words: Sequence[int]) -> list[Counter[tuple[int, ...]]]:
    """Count the n-grams of a caption, for each n from 1 to 4."""
    return [
        Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1)) for n in range(1, LONGEST + 1)
    ]


@dataclass(frozen=True)
class Judge:
    """What a model expects in people's captions of some images.

    Attributes:
        ngrams: its n-grams.
        expected: (B, M) the prediction for each image.
        numbers: the model's number of each word of the search, if they differ.
    """

    ngrams: Ngrams
    expected: Array
    numbers: Sequence[int] | None = None

    def agreement(self, image: int, words: Sequence[int]) -> float:
        """Return :meth:`Ngrams.agreement` of a caption of an image."""
        own = words if self.numbers is None else [self.numbers[word] for word in words]
        return self.ngrams.agreement(own, self.expected[image])


def search_agreeing(
    find: Callable[[SearchConfig], list[list[Hypothesis]]], config: SearchConfig, judges: Sequence[Judge]
) -> list[list[Hypothesis]]:
    """Search captions, and rank all hypotheses of the beam by ``score + consensus * agreement``.

    Args:
        find: searches the captions of B images with some settings.
        config: the settings.
        judges: the agreement is the mean over them; without any it is not counted.
    """
    if not judges or not config.consensus or config.width == 1:
        return find(config)
    found = find(config.model_copy(update={"n_best": config.width}))
    agreements = [
        [fmean(judge.agreement(image, hypothesis.words) for judge in judges) for hypothesis in hypotheses]
        for image, hypotheses in enumerate(found)
    ]
    return rerank(found, agreements, config)


def rerank(
    found: Sequence[Sequence[Hypothesis]], agreements: Sequence[Sequence[float]], config: SearchConfig
) -> list[list[Hypothesis]]:
    """Rank the hypotheses of each image and keep the ``n_best``; unfinished ones stay behind all finished ones."""
    ranked = []
    for hypotheses, own in zip(found, agreements, strict=True):
        scored = [
            replace(hypothesis, score=hypothesis.score + config.consensus * agreement)
            for hypothesis, agreement in zip(hypotheses, own, strict=True)
        ]
        scored.sort(key=lambda hypothesis: (hypothesis.finished, hypothesis.score), reverse=True)
        ranked.append(scored[: config.n_best])
    return ranked
