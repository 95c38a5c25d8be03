"""Searches whose hypotheses are chosen by what models expect in captions of the images.

Letters in shapes: B images, M n-grams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from captioner.caption import Array
from captioner.memory import Encoded, Memory
from captioner.model import CaptionModel
from captioner.search.config import Hypothesis, SearchConfig
from captioner.search.consensus import Ngrams, candidates, rerank
from captioner.search.constraints import Stepper
from captioner.search.search import search as find


@dataclass(frozen=True)
class Judge:
    """What a model expects in captions of some images, by which their hypotheses are chosen.

    Attributes:
        ngrams: its n-grams.
        expected: (B, M) the prediction for each image.
        numbers: the model's number of each word of the search, if they differ.
    """

    ngrams: Ngrams
    expected: Array
    numbers: Sequence[int] | None = None

    @classmethod
    def of(cls, model: CaptionModel, memory: Memory, numbers: Sequence[int] | None = None) -> Judge | None:
        """Let a model predict for the images of its encoder's memory; ``None`` if it cannot."""
        if model.consensus is None:
            return None
        return cls(model.consensus.ngrams, model.consensus(memory.pooled).cpu().numpy(), numbers)

    def agreement(self, image: int, words: Sequence[int]) -> float:
        """Return the agreement of a caption of an image."""
        own = words if self.numbers is None else [self.numbers[word] for word in words]
        return self.ngrams.agreement(own, self.expected[image])


def find_agreeing(
    decoder: Stepper, memory: Encoded, search: SearchConfig, judges: Sequence[Judge | None]
) -> list[list[Hypothesis]]:
    """Search captions of each image and rank them by their score and their mean agreement with the judges, if any."""
    present = [judge for judge in judges if judge is not None]
    if not present or not search.consensus or search.width == 1:
        return find(decoder, memory, search)
    found = find(decoder, memory, candidates(search))
    agreements = [
        [fmean(judge.agreement(image, hypothesis.words) for judge in present) for hypothesis in hypotheses]
        for image, hypotheses in enumerate(found)
    ]
    return rerank(found, agreements, search)
