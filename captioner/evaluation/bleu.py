"""BLEU-4 of single captions as sequences of word indices, for a reward."""

from __future__ import annotations

from collections.abc import Sequence

from captioner.caption import Array
from captioner.evaluation.sums import bleu_score, bleu_statistics


class SentenceBleu:
    """Scores each candidate separately against the references of its image.

    The scores are those of pycocoevalcap for single images: n-gram counts are clipped to their maximum over references,
    and the brevity penalty uses the closest reference length.

    Args:
        references: one or more captions for each image, each a sequence of word indices.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]) -> None:
        self.references = references

    def __call__(self, images: Sequence[int], candidates: Array) -> Array:
        """Return the BLEU-4 of each of H candidates, from 0 to 1, (H,) float64.

        Args:
            images: image index of each candidate.
            candidates: (H, T) word indices, each candidate padded with zeros.
        """
        from pycocoevalcap.bleu.bleu_scorer import cook_refs

        cooked = {image: cook_refs([_text(caption) for caption in self.references[image]]) for image in set(images)}
        pairs = zip((_text(candidate[candidate > 0]) for candidate in candidates), images, strict=True)
        scores: Array = bleu_score(bleu_statistics((text, cooked[image]) for text, image in pairs))[:, -1]
        return scores


def _text(words: Sequence[int] | Array) -> str:
    return " ".join(map(str, words))
