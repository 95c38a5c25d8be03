"""Scores with intervals, and differences with p-values, on a group of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from captioner.caption import Array
from captioner.evaluation.bootstrap import Difference, Interval, compare, holm, intervals
from captioner.evaluation.sums import Sums


@dataclass(frozen=True)
class Group:
    """Results on a group of images.

    Attributes:
        name: which images these are.
        photos: the number of images.
        scores: the score of each model and metric.
        differences: for each model but the first and each metric, how much better it is than the first model; the
            p-values are corrected for the number of models.
    """

    name: str
    photos: int
    scores: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Difference]]


def group(
    name: str, parts: Mapping[str, Sequence[Sums]], images: Array | None = None, *, resamples: int, seed: int = 0
) -> Group:
    """Score and test models on a group of images.

    Args:
        name: name of the group.
        parts: the metrics of each model; the others are compared with the first model.
        images: indices of the images; ``None`` means all.
        resamples: number of resamples for intervals and tests.
        seed: seed of the resampling.
    """
    (_, first), *others = parts.items()
    settings: dict[str, Any] = {"images": images, "resamples": resamples, "seed": seed}
    scores = {model: intervals(metrics, **settings) for model, metrics in parts.items()}
    tests = {model: compare(first, metrics, **settings) for model, metrics in others}
    return Group(name, len(first[0].each) if images is None else len(images), scores, corrected(tests))


def corrected(tests: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """Correct p-values for the number of models compared with the first, metric by metric.

    The correction is :func:`captioner.evaluation.bootstrap.holm`.
    """
    out: dict[str, dict[str, Difference]] = {model: {} for model in tests}
    for metric in next(iter(tests.values()), {}):
        differences = [test[metric] for test in tests.values()]
        bootstrap, randomisation = (
            holm(values) for values in ([d.p_bootstrap for d in differences], [d.p_randomisation for d in differences])
        )
        for model, difference, *p_values in zip(tests, differences, bootstrap, randomisation, strict=True):
            out[model][metric] = replace(difference, p_bootstrap=p_values[0], p_randomisation=p_values[1])
    return out
