"""What searches share: their settings, what they find, and which words may not come next.

Tensor letters: B images, W hypotheses an image, T words written so far, N places, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import Field, model_validator
from torch import Tensor

from captioner.decoders.base import Decoder
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.settings import Settings
from captioner.text.vocabulary import BOS, EOS, PAD, UNK

NEVER = float("-inf")


class SearchConfig(Settings):
    """How captions are looked for."""

    width: int = Field(5, ge=1, description="hypotheses kept for each image; 1 is greedy search")
    max_words: int = Field(24, ge=1, description="a caption is ended after so many words")
    min_words: int = Field(0, ge=0, description="a caption may not end before so many words")
    length_normalisation: float = Field(
        0.7,
        ge=0,
        description="a finished caption's log-probability is divided by its length (with <eos>) to this power before captions are compared",
    )
    block_ngram: int = Field(
        0, ge=0, description="forbid a caption to repeat a sequence of so many words; 0 forbids nothing"
    )
    n_best: int = Field(1, ge=1, description="captions returned for each image")
    forbid_unknown: bool = Field(True, description="never write <unk>")

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if self.n_best > self.width:
            raise ValueError(f"n_best ({self.n_best}) must not be more than width ({self.width})")
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) must not be more than max_words ({self.max_words})")
        return self

    def normalise(self, log_probability: Tensor, length: Tensor | int) -> Tensor:
        """Return the score by which finished captions are compared; ``length`` counts the words and ``<eos>``."""
        return log_probability / length**self.length_normalisation


@dataclass(frozen=True)
class Hypothesis:
    """One caption that a search found.

    Attributes:
        words: the words' numbers, without ``<bos>`` and ``<eos>``.
        log_probability: the sum over its words and ``<eos>``, in nats.
        score: what it was ranked by.
        attention: (T, N) on the CPU, where the decoder looked for each word; ``None`` if it does not attend.
        finished: whether it ended with ``<eos>`` and not at ``max_words``.
    """

    words: list[int]
    log_probability: float
    score: float
    attention: Tensor | None
    finished: bool


Search: TypeAlias = Callable[[Decoder, Memory, SearchConfig], list[list[Hypothesis]]]
SEARCHES: Registry[Search] = Registry("search")


def constrain(log_probabilities: Tensor, history: Tensor, config: SearchConfig) -> Tensor:
    """Set what may not come next to minus infinity.

    A hypothesis with no word left may end.

    Args:
        log_probabilities: (B, W, V) of the next word; changed in place.
        history: (B, W, T) words written, without ``<bos>``.
        config: the search's settings.
    """
    ending = log_probabilities[..., EOS].clone()
    log_probabilities[..., [PAD, BOS]] = NEVER
    if config.forbid_unknown:
        log_probabilities[..., UNK] = NEVER
    written, n = history.shape[-1], config.block_ngram
    if written < config.min_words:
        log_probabilities[..., EOS] = NEVER
    if 0 < n <= written:
        # Every window of n words whose first n - 1 are the last n - 1 written forbids its last.
        windows = history.unfold(-1, n, 1)
        repeats = (windows[..., :-1] == history[..., written - n + 1 :].unsqueeze(2)).all(-1)
        b, w, i = repeats.nonzero(as_tuple=True)
        log_probabilities[b, w, windows[b, w, i, -1]] = NEVER
    stuck = log_probabilities.amax(-1) == NEVER
    log_probabilities[..., EOS] = log_probabilities[..., EOS].where(~stuck, ending)
    return log_probabilities
