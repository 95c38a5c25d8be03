"""Common to all searches: settings, results, and which words may not come next.

Tensor letters: B images, W hypotheses per image, T words written so far, N places, V words of the vocabulary.
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
    """Settings of a search for captions."""

    width: int = Field(5, ge=1, description="hypotheses kept for each image; 1 is greedy search")
    max_words: int = Field(24, ge=1, description="most words of a caption")
    min_words: int = Field(0, ge=0, description="fewest words of a caption")
    length_normalisation: float = Field(
        0.7,
        ge=0,
        description="captions are compared by log-probability / length**this, where the length includes <eos>",
    )
    block_ngram: int = Field(
        0, ge=0, description="forbid captions to repeat a sequence of this many words; 0 forbids nothing"
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
        words: the words' indices, without ``<bos>`` and ``<eos>``.
        log_probability: the sum over its words and ``<eos>``, in nats.
        score: the value by which it was ranked.
        attention: (T, N) on the CPU, the weights of the places for each word; ``None`` if the decoder does not attend.
        finished: whether it ended with ``<eos>`` and not at ``max_words``.
    """

    words: list[int]
    log_probability: float
    score: float
    attention: Tensor | None
    finished: bool


Search: TypeAlias = Callable[[Decoder, Memory, SearchConfig], list[list[Hypothesis]]]
SEARCHES: Registry[Search] = Registry("search")


def choose_search(config: SearchConfig) -> Search:
    """Return the search of a width: a beam of one hypothesis is greedy search."""
    return SEARCHES["greedy" if config.width == 1 else "beam"]


def constrain(log_probabilities: Tensor, history: Tensor, config: SearchConfig) -> Tensor:
    """Set the words that may not come next to minus infinity.

    A hypothesis to which no word is left may end.

    Args:
        log_probabilities: (B, W, V) of the next word; changed in place.
        history: (B, W, T) words written, without ``<bos>``.
        config: the search's settings.
    """
    ending = log_probabilities[..., EOS].clone()
    log_probabilities[..., [PAD, BOS]] = NEVER
    if config.forbid_unknown:
        log_probabilities[..., UNK] = NEVER
    length, n = history.shape[-1], config.block_ngram
    if length < config.min_words:
        log_probabilities[..., EOS] = NEVER
    if 0 < n <= length:
        # Every window of n words that begins with the last n - 1 words written forbids its last word.
        windows = history.unfold(-1, n, 1)
        repeats = (windows[..., :-1] == history[..., length - n + 1 :].unsqueeze(2)).all(-1)
        b, w, i = repeats.nonzero(as_tuple=True)
        log_probabilities[b, w, windows[b, w, i, -1]] = NEVER
    stuck = log_probabilities.amax(-1) == NEVER
    log_probabilities[..., EOS] = log_probabilities[..., EOS].where(~stuck, ending)
    return log_probabilities
