"""Diversity and novelty of captions, and detection of models that have collapsed into a few poor captions."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from unicodedata import normalize

from captioner.text.vocabulary import tokenize

# Words that end only truncated captions; models rewarded for n-grams alone learn to stop there.
DANGLING = frozenset(
    [
        "a",
        "an",
        "the",
        "and",
        "or",
        "of",
        "in",
        "on",
        "at",
        "with",
        "to",
        "for",
        "by",
        "from",
        "is",
        "are",
        "his",
        "her",
        "their",
        "its",
    ]
)


@dataclass(frozen=True)
class Diversity:
    """Diversity statistics of a set of captions.

    Attributes:
        words: mean number of words in a caption.
        distinct_captions: number of distinct captions over the number of captions.
        distinct_bigrams: number of distinct bigrams over the number of bigrams (distinct-2 of Li 2016,
            https://arxiv.org/abs/1510.03055).
        dangling: share of captions that end with a word of :data:`DANGLING`.
        vocabulary: number of distinct words.
        novel: share of captions that equal no training caption; ``None`` if those are unknown.
    """

    words: float
    distinct_captions: float
    distinct_bigrams: float
    dangling: float
    vocabulary: int
    novel: float | None = None

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]], training: Container[tuple[str, ...]] | None = None) -> Diversity:
        """Compute the statistics of captions, each a list of words.

        Args:
            captions: if there are none, every number is zero.
            training: the training captions, each a tuple of words; see :class:`TrainingCaptions`.
        """
        number = max(1, len(captions))
        pairs = [pair for caption in captions for pair in pairwise(caption)]
        return cls(
            words=sum(map(len, captions)) / number,
            distinct_captions=len(set(map(tuple, captions))) / number,
            distinct_bigrams=len(set(pairs)) / max(1, len(pairs)),
            dangling=sum(bool(caption) and caption[-1] in DANGLING for caption in captions) / number,
            vocabulary=len({word for caption in captions for word in caption}),
            novel=None if training is None else sum(tuple(caption) not in training for caption in captions) / number,
        )

    def collapsed(self, people: Diversity) -> str | None:
        """Describe how these captions have collapsed; return ``None`` if they have not.

        Args:
            people: the statistics of human captions of the same images.
        """
        if self.words < 0.5 * people.words:
            return f"captions have {self.words:.1f} words on average, human captions {people.words:.1f}"
        if self.distinct_captions < 0.05:
            return f"only {100 * self.distinct_captions:.1f} % of the captions differ from one another"
        if self.distinct_bigrams < 0.02 * people.distinct_bigrams:
            return (
                f"of the captions' bigrams {100 * self.distinct_bigrams:.1f} % are distinct, "
                f"of human captions {100 * people.distinct_bigrams:.1f} %"
            )
        if self.dangling > 0.1 + people.dangling:
            return f"{100 * self.dangling:.0f} % of the captions break off, ending with words such as 'a' or 'of'"
        return None


class TrainingCaptions(Container[tuple[str, ...]]):
    """A set of training captions as tuples of words; see :func:`captioner.text.vocabulary.tokenize`.

    Tokenises only captions with the same letters and digits as a requested one: COCO's 567,000 captions take a few
    seconds instead of two minutes.

    Args:
        captions: the captions as written.
    """

    def __init__(self, captions: Iterable[str]) -> None:
        self._by_letters: dict[str, list[str]] = {}
        for caption in captions:
            self._by_letters.setdefault(_letters(caption), []).append(caption)

    def __contains__(self, words: object) -> bool:
        if not isinstance(words, tuple):
            return False
        return any(tuple(tokenize(caption)) == words for caption in self._by_letters.get(_letters("".join(words)), ()))


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", normalize("NFC", text.lower()))
