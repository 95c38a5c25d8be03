"""How varied captions are, and whether a model has collapsed into saying little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# What no caption ends with unless it was cut short; a model rewarded for n-grams alone learns to stop here.
DANGLING = frozenset(
    ["a", "an", "the", "and", "or", "of", "in", "on", "at", "with", "to", "for", "by", "from", "is", "are", "his", "her", "their", "its"]
)


@dataclass(frozen=True)
class Diversity:
    """What a set of captions looks like.

    Attributes:
        words: mean number of words of a caption.
        distinct_captions: share of different captions among all.
        distinct_bigrams: number of different pairs of neighbouring words over the number of pairs (distinct-2 of Li 2016,
            https://arxiv.org/abs/1510.03055).
        dangling: share of captions that end with an article, a preposition or the like.
    """

    words: float
    distinct_captions: float
    distinct_bigrams: float
    dangling: float

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]]) -> Diversity:
        """Look at captions, each a list of words."""
        number = max(1, len(captions))
        pairs = [pair for caption in captions for pair in pairwise(caption)]
        return cls(
            words=sum(map(len, captions)) / number,
            distinct_captions=len(set(map(tuple, captions))) / number,
            distinct_bigrams=len(set(pairs)) / max(1, len(pairs)),
            dangling=sum(bool(caption) and caption[-1] in DANGLING for caption in captions) / number,
        )

    def collapsed(self, people: Diversity) -> str | None:
        """Say how these captions have collapsed, measured by those that people wrote of the same pictures; ``None`` if they have not."""
        if self.words < 0.5 * people.words:
            return f"captions have {self.words:.1f} words on average, those of people {people.words:.1f}"
        if self.distinct_captions < 0.05:
            return f"only {100 * self.distinct_captions:.1f} % of the captions differ from one another"
        if self.distinct_bigrams < 0.02 * people.distinct_bigrams:
            return (
                f"of the captions' pairs of words {100 * self.distinct_bigrams:.1f} % are distinct, of people's {100 * people.distinct_bigrams:.1f} %"
            )
        if self.dangling > 0.1 + people.dangling:
            return f"{100 * self.dangling:.0f} % of the captions break off, ending with words such as 'a' or 'of'"
        return None
