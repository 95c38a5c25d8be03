"""Confidence intervals of scores, and significance tests between models, by resampling the images.

- Intervals: percentiles of the score over bootstrap resamples of the images (Efron and Tibshirani 1993, chapter 13).
- Paired bootstrap (Koehn 2004, https://aclanthology.org/W04-3250): both models are scored on the same resamples. The
  p-value is two-sided: how often the difference deviates from its mean by at least as much as was observed (the null
  hypothesis of Berg-Kirkpatrick et al. 2012, https://aclanthology.org/D12-1091).
- Approximate randomisation (Noreen 1989; Riezler and Maxwell 2005, https://aclanthology.org/W05-0908): the p-value is
  how often exchanging the two models' captions of random images gives as large a difference. It makes fewer
  assumptions; report this one.

Each p-value counts the observation itself, ``(1 + hits) / (1 + resamples)``, so it is never zero.

Resamples are scored from sums over their images (see :mod:`captioner.evaluation.sums`), by a matrix product.

Letters in shapes: I images, R resamples, S summed statistics, M metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from captioner.caption import Array
from captioner.evaluation.sums import Sums

DEFAULT_RESAMPLES = 10_000
LEVEL = 0.95
FEWEST = 30
"""Number of images below which intervals are too narrow and p-values of the bootstrap too small."""

_CELLS = 4_000_000  # entries of the largest matrix held in memory


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """Format in percent, as ``24.1 [22.9, 25.3]``."""
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Difference:
    """How much better another model is than the first.

    Attributes:
        value: its score minus the first's, with the 95 % confidence interval from ``low`` to ``high``.
        p_bootstrap: two-sided p-value of the paired bootstrap.
        p_randomisation: two-sided p-value of approximate randomisation.
    """

    value: float
    low: float
    high: float
    p_bootstrap: float
    p_randomisation: float


def intervals(
    parts: Sequence[Sums], *, images: Array | None = None, resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Return every metric with its confidence interval.

    Args:
        parts: the metrics, all on the same images.
        images: indices of the images to use; ``None`` uses all.
        resamples: number of resamples.
        seed: seed of the resampling; the same seed gives the same resamples.
    """
    replicates = _apply(parts, _resampled(_chosen(parts, images), resamples, seed))
    low, high = np.quantile(replicates, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
    value = [score for part in parts for score in part.values(images).values()]
    return {name: Interval(*map(float, row)) for name, *row in zip(_names(parts), value, low, high, strict=True)}


def compare(
    first: Sequence[Sums],
    other: Sequence[Sums],
    *,
    images: Array | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """Test every metric of two models on the same images, paired image by image; see :func:`intervals`.

    Returns:
        The other model's scores minus the first's. The p-values of a single image, which cannot be resampled, are 1.
    """
    one, two = _chosen(first, images), _chosen(other, images)
    both = np.concatenate([one, two], axis=1)
    observed = _apply(other, two.sum(0)) - _apply(first, one.sum(0))

    def difference(sums: Array) -> Array:
        return _apply(other, sums[..., one.shape[1] :]) - _apply(first, sums[..., : one.shape[1]])

    resampled = difference(_resampled(both, resamples, seed))
    low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
    # Exchanging captions adds this to the first model's sums and subtracts it from the other's.
    moved = _exchanged(two - one, resamples, seed + 1)
    exchanged = difference(np.concatenate([one.sum(0) + moved, two.sum(0) - moved], axis=1))
    deviations = np.abs(resampled - resampled.mean(0)) if len(one) > 1 else np.abs(resampled)
    bootstrap = _p_values(deviations, observed)
    randomisation = _p_values(np.abs(exchanged), observed)
    rows = zip(_names(first), observed, low, high, bootstrap, randomisation, strict=True)
    return {name: Difference(*map(float, row)) for name, *row in rows}


def by_length(words: Array) -> dict[str, Array]:
    """Split images into thirds by the length of their references.

    Args:
        words: (I,) mean number of words of each image's references.

    Returns:
        The indices of each third's images, by a description of the third; empty thirds are left out.
    """
    low, high = np.quantile(words, (1 / 3, 2 / 3))
    which = np.searchsorted([low, high], words, side="left")
    names = (f"references of up to {low:.1f} words", f"{low:.1f} to {high:.1f} words", f"more than {high:.1f} words")
    groups = {name: np.flatnonzero(which == number) for number, name in enumerate(names)}
    return {name: images for name, images in groups.items() if len(images)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple testing (Holm 1979).

    Rejecting the hypotheses whose corrected p-value is below 0.05 keeps the chance of any false rejection below 0.05.
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    out = np.empty(len(order))
    out[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    corrected: list[float] = out.tolist()
    return corrected


def _names(parts: Sequence[Sums]) -> list[str]:
    return [name for part in parts for name in part.names]


def _chosen(parts: Sequence[Sums], images: Array | None) -> Array:
    """Return the statistics of all metrics side by side, (I, S)."""
    each = np.concatenate([part.each for part in parts], axis=1)
    return each if images is None else each[images]


def _apply(parts: Sequence[Sums], sums: Array) -> Array:
    """Turn sums (..., S) of all metrics' statistics into their scores (..., M)."""
    ends = np.cumsum([part.each.shape[1] for part in parts])[:-1]
    return np.concatenate(
        [part.score(own) for part, own in zip(parts, np.split(sums, ends, axis=-1), strict=True)], axis=-1
    )


def _chunks(images: int, resamples: int) -> Iterator[int]:
    """Split the resamples into numbers of rows for which a matrix is small enough."""
    rows = max(1, min(resamples, _CELLS // images))
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def _weighted(each: Array, resamples: int, draw: Callable[[int], Array]) -> Array:
    """Sum statistics (I, S) with the weights (rows, I) that ``draw`` returns for a number of rows."""
    return np.concatenate([draw(rows) @ each for rows in _chunks(len(each), resamples)])


def _resampled(each: Array, resamples: int, seed: int) -> Array:
    """Draw I images of the I, with replacement, R times; return the sums of each draw, (R, S)."""
    random, number = np.random.default_rng(seed), len(each)

    def draw(rows: int) -> Array:
        picked = random.integers(number, size=(rows, number)) + number * np.arange(rows)[:, None]
        return np.bincount(picked.ravel(), minlength=rows * number).reshape(rows, number).astype(np.float64)

    return _weighted(each, resamples, draw)


def _exchanged(difference: Array, resamples: int, seed: int) -> Array:
    """Choose each image with probability 1/2, R times; return the sums over the chosen images, (R, S)."""
    random = np.random.default_rng(seed)
    return _weighted(
        difference, resamples, lambda rows: random.integers(2, size=(rows, len(difference))).astype(np.float64)
    )


def _p_values(differences: Array, observed: Array) -> Array:
    """Return how often differences (R, M) are at least as large as the observed ones (M,), up to rounding errors."""
    hits = (differences >= np.abs(observed) - 1e-12).sum(0)
    p_values: Array = (1 + hits) / (1 + len(differences))
    return p_values
