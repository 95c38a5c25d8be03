"""The interface of a decoder for the searches, and the words that may not come next.

Tensor letters: B images, W hypotheses per image, T words written so far, V words of the vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from captioner.decoders.decoder import State, Step
from captioner.search.config import MINUS_INFINITY, SearchConfig
from captioner.text.vocabulary import BOS, EOS, PAD, UNK


class StepwiseDecoder(Protocol):
    """The interface of a :class:`Decoder`, or of an ensemble of them, for a search."""

    def start(self, memory: Any) -> State:
        """Prepare one hypothesis per image; see :meth:`Decoder.start`."""

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""


def constrain(log_probabilities: Tensor, history: Tensor, config: SearchConfig) -> Tensor:
    """Set the words that may not come next to minus infinity.

    If all words are forbidden, a hypothesis may end.

    Args:
        log_probabilities: (B, W, V) of the next word; changed in place.
        history: (B, W, T) words written, without ``<bos>``.
        config: the search's settings.
    """
    ending = log_probabilities[..., EOS].clone()
    log_probabilities[..., [PAD, BOS]] = MINUS_INFINITY
    if config.forbid_unknown:
        log_probabilities[..., UNK] = MINUS_INFINITY
    length, n = history.shape[-1], config.block_ngram
    if length < config.min_words:
        log_probabilities[..., EOS] = MINUS_INFINITY
    if 0 < n <= length:
        # Every window of n words that begins with the last n - 1 words written forbids its last word.
        windows = history.unfold(-1, n, 1)
        repeats = (windows[..., :-1] == history[..., length - n + 1 :].unsqueeze(2)).all(-1)
        b, w, i = repeats.nonzero(as_tuple=True)
        log_probabilities[b, w, windows[b, w, i, -1]] = MINUS_INFINITY
    stuck = log_probabilities.amax(-1) == MINUS_INFINITY
    log_probabilities[..., EOS] = log_probabilities[..., EOS].where(~stuck, ending)
    return log_probabilities
