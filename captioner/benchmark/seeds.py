"""Comparison of recipes, each trained with several seeds: means and deviations.

The standard deviation over seeds shows how much a score changes when a recipe is trained again. Intervals and p-values
concern the sample of images, for these runs: the statistics of an image in all runs of a recipe are resampled together,
or exchanged with those of the other recipe, and the tested quantity is the mean score of the runs.

Letters in shapes: I images, S statistics that are added up, K runs of a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from captioner.benchmark.contestants import Contestant
from captioner.benchmark.groups import Group, group
from captioner.caption import Array
from captioner.evaluation.sums import ModelSums, Sums


@dataclass(frozen=True)
class Seeds:
    """Results over seeds.

    Attributes:
        runs: names of the runs of each recipe.
        seeds: the seeds in use: those with which every recipe was trained.
        means: mean scores of each recipe's runs on all images, and tests of the recipes against the first.
        deviations: standard deviation over the runs of each recipe and metric, with denominator K - 1; ``None`` for a
            single run.
    """

    runs: dict[str, list[str]]
    seeds: list[int | None]
    means: Group
    deviations: dict[str, dict[str, float | None]]


def over_seeds(
    contestants: Sequence[Contestant], measured: Mapping[str, ModelSums], *, resamples: int, seed: int = 0
) -> Seeds | None:
    """Return means and deviations of the recipes, or ``None`` if they do not have at least two seeds in common."""
    runs: dict[str, dict[int | None, str]] = {}
    for contestant in contestants:
        if contestant.recipe is not None and contestant.name in measured:
            runs.setdefault(contestant.recipe, {})[contestant.seed] = contestant.name
    common = [each for each in next(iter(runs.values()), {}) if all(each in by_seed for by_seed in runs.values())]
    if len(common) < 2:
        return None
    names = {recipe: [by_seed[each] for each in common] for recipe, by_seed in runs.items()}
    scored = {recipe: [measured[name] for name in run_names] for recipe, run_names in names.items()}
    means = {recipe: averaged(every) for recipe, every in scored.items()}
    return Seeds(
        runs=names,
        seeds=common,
        means=group("all images", means, resamples=resamples, seed=seed),
        deviations={recipe: deviations([run.values() for run in every]) for recipe, every in scored.items()},
    )


def averaged(runs: Sequence[ModelSums]) -> tuple[Sums, ...]:
    """Return metrics that are the mean over K runs on the same images.

    An image's statistics are those of all runs side by side: (I, K S).
    """
    return tuple(_mean(parts) for parts in zip(*(run.parts for run in runs), strict=True))


def _mean(parts: Sequence[Sums]) -> Sums:
    def score(sums: Array) -> Array:
        each = np.split(sums, len(parts), axis=-1)
        mean: Array = np.mean([part.score(values) for part, values in zip(parts, each, strict=True)], axis=0)
        return mean

    return Sums(parts[0].names, np.concatenate([part.each for part in parts], axis=1), score)


def deviations(runs: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Return the standard deviation of each metric over runs; ``None`` for a single run."""
    return {
        metric: float(np.std([run[metric] for run in runs], ddof=1)) if len(runs) > 1 else None for metric in runs[0]
    }
