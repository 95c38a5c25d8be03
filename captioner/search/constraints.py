"""The interface of a decoder for the searches, and the constraints on the next word.

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
        """Compute the logits after words (B, W); see :meth:`Decoder.step`."""


def constrain(log_probabilities: Tensor, history: Tensor, config: SearchConfig) -> Tensor:
    """Set the log-probabilities of forbidden words to minus infinity.

    If all words are forbidden, ``<eos>`` is allowed.

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
        # If a window of n words begins with the last n - 1 words written, its last word is forbidden.
        windows = history.unfold(-1, n, 1)
        repeats = (windows[..., :-1] == history[..., length - n + 1 :].unsqueeze(2)).all(-1)
        b, w, i = repeats.nonzero(as_tuple=True)
        log_probabilities[b, w, windows[b, w, i, -1]] = MINUS_INFINITY
    all_forbidden = log_probabilities.amax(-1) == MINUS_INFINITY
    log_probabilities[..., EOS] = log_probabilities[..., EOS].where(~all_forbidden, ending)
    return log_probabilities
