"""The last part of a beam search: ranking the hypotheses and collecting their words.

Letters in shapes: T steps, B images, W hypotheses per image, N regions or cells.
"""

from __future__ import annotations

import numpy as np

from captioner.caption import Array
from captioner.search.config import MINUS_INFINITY, Hypothesis, SearchConfig


def top(scores: Array, count: int, within: float = np.inf) -> tuple[Array, Array]:
    """Return the highest scores of each row, highest first, and their positions; minus infinity pads a short row.

    Args:
        scores: (B, C) float32.
        count: the number of scores to return for each row.
        within: scores further below the highest of the row are left out; a finite number saves most of the time.
    """
    if within < np.inf:
        near_best = scores >= scores.max(1, keepdims=True) - np.float32(within)
        rows, positions = np.divmod(np.flatnonzero(near_best), scores.shape[1])  # faster than nonzero of two axes
        near = scores[rows, positions]
        order = np.lexsort((-near, rows))
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        rows, order, rank = (part[rank < count] for part in (rows, order, rank))
        values = np.full((len(scores), count), MINUS_INFINITY, dtype=scores.dtype)
        values[rows, rank] = near[order]
        index = np.zeros((len(scores), count), dtype=np.int64)
        index[rows, rank] = positions[order]
        return values, index
    if scores.shape[1] < count:
        scores = np.pad(scores, ((0, 0), (0, count - scores.shape[1])), constant_values=MINUS_INFINITY)
    positions = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    values = np.take_along_axis(scores, positions, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    values, positions = (np.take_along_axis(x, order, axis=1) for x in (values, positions))
    return values, np.where(values > MINUS_INFINITY, positions, 0)


def collect(
    words: Array,
    parents: Array,
    totals: Array,
    ended: Array,
    attention: Array | None,
    config: SearchConfig,
    count: int,
) -> list[list[Hypothesis]]:
    """Rank the hypotheses of each image and trace the best back to their first words.

    Args:
        words: (T, B, W) the word of each hypothesis in each step.
        parents: (T, B, W) the hypothesis of the previous step that it continued.
        totals: (T, B, W) float32, its log-probability; minus infinity where there is no hypothesis.
        ended: (T, B, W) whether it ended in this step.
        attention: (T, B, W, N) float32 attention weights of the hypotheses before each step; ``None`` if the decoder
            does not attend.
        config: the search's settings.
        count: the number of hypotheses to return for each image, if there are as many.
    """
    steps, images, w = words.shape
    scores = config.normalise(totals, np.arange(1, steps + 1, dtype=np.float32).reshape(-1, 1, 1))
    # Unfinished hypotheses exist only at the last step. A large shift ranks them last and keeps their order.
    ranking = scores.astype(np.float64)  # in 32 bits the shift would round differences away
    unfinished = np.full_like(ranking, MINUS_INFINITY)
    unfinished[-1] = ranking[-1] - 1e6
    ranked = np.where(ended, ranking, unfinished).transpose(1, 0, 2).reshape(images, -1)
    best, index = top(ranked, count)
    found = []
    for image in range(images):
        hypotheses = []
        for rank in range(count):
            if best[image, rank] == MINUS_INFINITY:
                break
            last, slot = divmod(int(index[image, rank]), w)
            finished = bool(ended[last, image, slot])
            log_probability, score = float(totals[last, image, slot]), float(scores[last, image, slot])
            caption, rows = [], []
            for t in range(last, -1, -1):
                caption.append(int(words[t, image, slot]))
                slot = int(parents[t, image, slot])
                rows.append(slot)
            caption.reverse()
            rows.reverse()
            length = len(caption) - finished
            weights = None if attention is None else attention[range(length), image, rows[:length]]
            hypotheses.append(Hypothesis(caption[:length], log_probability, score, weights, finished))
        found.append(hypotheses)
    return found
