"""BLEU-4 of single captions on word numbers, not strings, as part of a reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captioner.caption import Array
from captioner.evaluation.sums import bleu_score


class SentenceBleu:
    """Scores candidates against the references of a fixed set of images, each candidate by itself.

    It is what pycocoevalcap gives for single images: n-grams are clipped by the reference that has most of them, the
    brevity penalty takes the closest reference's length.

    Args:
        references: for each image one or more captions, each a sequence of numbers.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]) -> None:
        self.references = references

    def __call__(self, images: Sequence[int], candidates: Array) -> Array:
        """Return the BLEU-4 of each of H candidates, from 0 to 1, (H,) float64.

        Args:
            images: for each candidate the index of its image.
            candidates: (H, T) word numbers, each candidate padded with zeros.
        """
        from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test

        cooked = {image: cook_refs([_text(caption) for caption in self.references[image]]) for image in set(images)}
        rows = []
        for image, candidate in zip(images, candidates, strict=True):
            counts = cook_test(_text(candidate[candidate > 0]), cooked[image], eff="closest")
            rows.append([*counts["correct"], *counts["guess"], counts["testlen"], counts["reflen"]])
        scores: Array = bleu_score(np.array(rows, dtype=np.float64).reshape(len(rows), 10))[:, -1]
        return scores


def _text(words: Sequence[int] | Array) -> str:
    return " ".join(map(str, words))
