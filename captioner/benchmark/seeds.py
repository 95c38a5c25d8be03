"""Recipes against each other, each trained with several seeds: means and deviations.

There are two kinds of chance. The standard deviation over seeds says how much a score changes when the same recipe is
trained again. Intervals and p-values are about the photos: each photo's statistics of all runs of a recipe are
resampled, or exchanged with those of the other recipe, together, and what is tested is the mean score of the runs. They
hold for these runs; whether another training would come out alike, the deviation tells.

Letters in shapes: I photos, S statistics that are added up, K runs of a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from captioner.benchmark.contestants import Contestant
from captioner.benchmark.groups import Group, group
from captioner.evaluation.sums import Array, Measured, Sums


@dataclass(frozen=True)
class Seeds:
    """What came out over seeds.

    Attributes:
        runs: names of the runs of each recipe.
        seeds: that count: those with which every recipe was trained.
        means: mean scores of each recipe's runs, on all photos, and tests of the recipes against the first.
        deviations: of each recipe and metric the standard deviation over its runs, with K - 1 below the fraction;
            ``None`` of a single run.
    """

    runs: dict[str, list[str]]
    seeds: list[int | None]
    means: Group
    deviations: dict[str, dict[str, float | None]]


def over_seeds(
    contestants: Sequence[Contestant], measured: Mapping[str, Measured], *, resamples: int, seed: int = 0
) -> Seeds | None:
    """Return means and deviations of the recipes; ``None`` if nothing was trained with more than one seed that all recipes have."""
    runs: dict[str, dict[int | None, str]] = {}
    for contestant in contestants:
        if contestant.recipe is not None and contestant.name in measured:
            runs.setdefault(contestant.recipe, {})[contestant.seed] = contestant.name
    common = [one for one in next(iter(runs.values()), {}) if all(one in mine for mine in runs.values())]
    if len(common) < 2:
        return None
    names = {recipe: [mine[one] for one in common] for recipe, mine in runs.items()}
    means = {recipe: averaged([measured[name] for name in mine]) for recipe, mine in names.items()}
    return Seeds(
        runs=names,
        seeds=common,
        means=group("all photos", means, resamples=resamples, seed=seed),
        deviations={recipe: deviations([measured[name].values() for name in mine]) for recipe, mine in names.items()},
    )


def averaged(runs: Sequence[Measured]) -> tuple[Sums, ...]:
    """Make metrics that are the mean over K runs of the same photos; each photo's statistics are those of all runs side by side, (I, K S)."""
    return tuple(_mean(parts) for parts in zip(*(run.parts for run in runs), strict=True))


def _mean(parts: Sequence[Sums]) -> Sums:
    def score(sums: Array) -> Array:
        each = np.split(sums, len(parts), axis=-1)
        mean: Array = np.mean([part.score(mine) for part, mine in zip(parts, each, strict=True)], axis=0)
        return mean

    return Sums(parts[0].names, np.concatenate([part.each for part in parts], axis=1), score)


def deviations(runs: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Return the standard deviation of each metric over runs."""
    return {
        metric: float(np.std([run[metric] for run in runs], ddof=1)) if len(runs) > 1 else None for metric in runs[0]
    }
