"""Beam search in numpy, with the results of :mod:`captioner.search.beam`; width 1 is greedy search.

Letters in shapes: B images, W hypotheses per image, T words written so far, N cells, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from captioner.caption import Array
from captioner.search.collect import collect, top
from captioner.search.config import MINUS_INFINITY, Hypothesis, SearchConfig
from captioner.text.vocabulary import BOS, EOS, PAD, UNK


@dataclass(frozen=True)
class State:
    """The state of a decoder between two words; see :class:`captioner.decoders.decoder.State`.

    Attributes:
        hypotheses: arrays (B, W, ...).
        images: arrays (B, ...).
    """

    hypotheses: Mapping[str, Array]
    images: Mapping[str, Array]

    def pick(self, parents: Array, images: Array | None = None) -> State:
        """Return the state of other hypotheses; see :meth:`captioner.decoders.decoder.State.pick`."""
        rows, shared = np.arange(len(parents))[:, None], self.images
        if images is not None:
            rows, parents = rows[images], parents[images]
            shared = {name: array[images] for name, array in shared.items()}
        return State({name: array[rows, parents] for name, array in self.hypotheses.items()}, shared)


class Step(NamedTuple):
    """The output of one step.

    Attributes:
        log_probabilities: (B, W, V) float32, of the next word; the caller may change them.
        attention: (B, W, N) float32; ``None`` if the decoder does not attend.
        state: the state after the step.
    """

    log_probabilities: Array
    attention: Array | None
    state: State


class StepwiseDecoder(Protocol):
    """The interface of a decoder."""

    def step(self, tokens: Array, state: State) -> Step:
        """Read words (B, W) and score the next."""


def constrain(log_probabilities: Array, history: Array, config: SearchConfig) -> Array:
    """Set the forbidden next words to minus infinity, in place, as :mod:`captioner.search.constraints` does."""
    ending = log_probabilities[..., EOS].copy()
    log_probabilities[..., [PAD, BOS]] = MINUS_INFINITY
    if config.forbid_unknown:
        log_probabilities[..., UNK] = MINUS_INFINITY
    length, n = history.shape[-1], config.block_ngram
    if length < config.min_words:
        log_probabilities[..., EOS] = MINUS_INFINITY
    if 0 < n <= length:
        # If a window of n words begins with the last n - 1 words written, its last word is forbidden.
        windows = np.lib.stride_tricks.sliding_window_view(history, n, axis=-1)
        repeats = (windows[..., :-1] == history[..., None, length - n + 1 :]).all(-1)
        b, w, i = repeats.nonzero()
        log_probabilities[b, w, windows[b, w, i, -1]] = MINUS_INFINITY
    stuck = log_probabilities.max(-1) == MINUS_INFINITY
    log_probabilities[..., EOS] = np.where(stuck, ending, log_probabilities[..., EOS])
    return log_probabilities


def beam(
    decoder: StepwiseDecoder, state: State, images: int, config: SearchConfig, count: int | None = None
) -> list[list[Hypothesis]]:
    """Find the best captions of each image among ``width`` hypotheses; see :func:`captioner.search.beam.beam`.

    Args:
        decoder: makes the steps.
        state: that of its start, with one hypothesis per image.
        images: B.
        config: the settings.
        count: the number of captions to return for each image; ``n_best`` by default.
    """
    count = count or config.n_best
    w, steps = config.width, config.max_words
    words = np.zeros((steps, images, w), dtype=np.int64)
    parents = np.zeros((steps, images, w), dtype=np.int64)
    totals = np.full(
        (steps, images, w), MINUS_INFINITY, dtype=np.float32
    )  # of live hypotheses and those that end in this step
    ended = np.zeros((steps, images, w), dtype=bool)
    attentions: list[tuple[Array, Array]] = []

    active: Array = np.arange(images)
    tokens: Array = np.full((images, 1), BOS, dtype=np.int64)
    total: Array = np.zeros((images, 1), dtype=np.float32)
    history: Array = np.empty((images, 1, 0), dtype=np.int64)
    width: Array = np.full(images, w)  # live hypotheses of each image
    best: Array = np.full((images, count), MINUS_INFINITY, dtype=np.float32)  # scores of the best ended hypotheses
    columns = w
    for t in range(steps):
        log_probabilities, attention, state = decoder.step(tokens, state)
        if attention is not None:
            attentions.append((active, attention))
        candidates = constrain(log_probabilities, history, config)
        candidates += total[..., None]
        # The first n_best hypotheses are kept however unlikely they are; the others must be near the likeliest.
        within = config.prune if config.prune and config.n_best == 1 else np.inf
        total, flat = top(candidates.reshape(len(active), -1), columns, within)
        parent, tokens = np.divmod(flat, candidates.shape[-1])
        total[np.arange(columns) >= width[:, None]] = MINUS_INFINITY
        if config.prune:
            low = (total < total[:, :1] - np.float32(config.prune)) & (np.arange(columns) >= config.n_best)
            total[low] = MINUS_INFINITY
        ends = (tokens == EOS) & (total > MINUS_INFINITY)
        record = t, active, slice(columns)
        words[record], parents[record], totals[record], ended[record] = tokens, parent, total, ends
        if ends.any():
            scores = np.where(ends, config.normalise(total, np.float32(t + 1)), np.float32(MINUS_INFINITY))
            best, _ = top(np.concatenate([best, scores], axis=1), count)
            total = np.where(ends, np.float32(MINUS_INFINITY), total)
            width = width - ends.sum(1)
        can_win = config.normalise(total.max(1), np.float32(steps)) >= best[:, -1]
        live = (total > MINUS_INFINITY) & can_win[:, None]
        alive = live.any(1).nonzero()[0]
        if not len(alive):
            break
        columns, reached = width[alive].max(), live.any(0).nonzero()[0][-1] + 1
        parent, tokens, total = parent[:, :reached], tokens[:, :reached], total[:, :reached]
        written = np.take_along_axis(history, parent[..., None], axis=1)
        history = np.concatenate([written, tokens[..., None]], axis=-1)
        if len(alive) < len(active):
            state = state.pick(parent, alive)
            active, tokens, total, history, width, best = (
                part[alive] for part in (active, tokens, total, history, width, best)
            )
        else:
            state = state.pick(parent)
    attention = None
    if attentions:
        attention = np.zeros((len(attentions), images, w, attentions[0][1].shape[-1]), dtype=np.float32)
        for t, (rows, weights) in enumerate(attentions):
            attention[t, rows, : weights.shape[1]] = weights
    return collect(words, parents, totals, ended, attention, config, count)
