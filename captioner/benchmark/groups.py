"""Scores with intervals, and differences with p-values, on some of the photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from captioner.evaluation.bootstrap import Difference, Interval, compare, holm, intervals
from captioner.evaluation.sums import Array, Sums


@dataclass(frozen=True)
class Group:
    """Some of the photos.

    Attributes:
        name: which.
        photos: how many.
        scores: of each model and metric.
        differences: of each model but the first, and each metric, how much better it is than the first; p-values
            corrected for the number of models.
    """

    name: str
    photos: int
    scores: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Difference]]


def group(
    name: str, parts: Mapping[str, Sequence[Sums]], images: Array | None = None, *, resamples: int, seed: int = 0
) -> Group:
    """Score and test models on some of the photos.

    Args:
        name: of the group.
        parts: the metrics of each model; the others are compared with the first.
        images: numbers of the photos; ``None`` is all.
        resamples: of the intervals and tests.
        seed: of the resampling.
    """
    (_, first), *others = parts.items()
    settings: dict[str, Any] = {"images": images, "resamples": resamples, "seed": seed}
    scores = {model: intervals(mine, **settings) for model, mine in parts.items()}
    tests = {model: compare(first, mine, **settings) for model, mine in others}
    return Group(name, len(first[0].each) if images is None else len(images), scores, corrected(tests))


def corrected(tests: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """Correct the p-values of each metric for the number of models that are compared with the first, by :func:`captioner.evaluation.bootstrap.holm`."""
    out: dict[str, dict[str, Difference]] = {model: {} for model in tests}
    for metric in next(iter(tests.values()), {}):
        found = [test[metric] for test in tests.values()]
        bootstrap, randomisation = (
            holm(values) for values in ([d.p_bootstrap for d in found], [d.p_randomisation for d in found])
        )
        for model, difference, *p_values in zip(tests, found, bootstrap, randomisation, strict=True):
            out[model][metric] = replace(difference, p_bootstrap=p_values[0], p_randomisation=p_values[1])
    return out
