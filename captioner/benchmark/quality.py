"""How good the captions of some models are, each score with its interval, each difference with its p-values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from captioner.captioner import Captioner
from captioner.data.captions import CaptionData
from captioner.data.features import FeatureStore
from captioner.errors import EvaluationError, FeatureStoreError
from captioner.evaluation.bootstrap import Difference, Interval, by_length, compare, holm, intervals
from captioner.evaluation.diversity import Diversity
from captioner.evaluation.evaluate import generate
from captioner.evaluation.scores import metric_families
from captioner.evaluation.sums import Array, Measured, measure
from captioner.text.vocabulary import tokenize

ALL = "all photos"


@dataclass(frozen=True)
class Group:
    """Some of the photos.

    Attributes:
        name: which.
        photos: how many.
        scores: of each model and metric.
        differences: of each model but the first, and each metric, how much better it is than the first; p-values corrected for the number of models.
    """

    name: str
    photos: int
    scores: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Difference]]


@dataclass(frozen=True)
class Quality:
    """What the captions of all models are worth.

    Attributes:
        groups: all photos first, then thirds of them by the length of their references.
        diversity: of each model's captions.
        people: the same of each photo's first reference.
        images: ids of the photos that every model captioned.
        captions: of each model, in the order of ``images``.
        each: of each model and metric the scores of the single photos, in the same order.
        unreadable: what was wrong with the photos that are left out.
        notes: what a reader of the numbers must know.
    """

    groups: list[Group]
    diversity: dict[str, Diversity]
    people: Diversity
    images: list[str]
    captions: dict[str, list[str]]
    each: dict[str, dict[str, list[float]]]
    unreadable: list[str]
    notes: list[str]

    @property
    def metrics(self) -> list[str]:
        """The metrics that were computed."""
        return list(next(iter(self.groups[0].scores.values())))


def assess(
    models: Mapping[str, Callable[[], Captioner]],
    data: CaptionData,
    *,
    features: Sequence[str] = (),
    metrics: Sequence[str],
    batch_size: int = 16,
    resamples: int,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Quality:
    """Caption the photos with each model in turn and score what they say; only photos that all models could caption count.

    Args:
        models: what loads each, by name; the first is what the others are compared with. One at a time is in memory.
        data: a split.
        features: folders of feature stores. A model reads the first that its encoder made, and the photos if there is none.
        metrics: see :class:`captioner.evaluation.scores.Scorer`.
        batch_size: photos at once.
        resamples: of the intervals and the tests.
        seed: of the resampling.
        progress: called with (model, done, all).

    Raises:
        EvaluationError: a metric is unknown, no photo could be captioned by all models, or a scorer failed.
        FeatureStoreError: a store is damaged or suits no model.
    """
    metric_families(metrics)
    stores = {folder: FeatureStore(folder) for folder in features}
    said: dict[str, dict[str, str]] = {}
    unreadable: dict[str, None] = {}
    notes = []
    for name, load in models.items():
        captioner = load()
        store, mine = _store_for(captioner, stores), data
        if store is not None:
            used = store
            mine = replace(data, photos=tuple(photo for photo in data.photos if photo.image_id in used))
            unreadable |= {f"{photo.path}: not in the feature store {used.folder}": None for photo in data.photos if photo.image_id not in used}
        elif stores:
            notes.append(f"{name}: none of the feature stores is of its encoder; it captioned the photos")
        tell = None if progress is None else _telling(progress, name)
        said[name], errors = generate(captioner, mine, features=store, batch_size=batch_size, progress=tell)
        unreadable |= {str(error): None for error in errors}
    references = {photo.image_id: photo.captions for photo in data.photos if all(photo.image_id in captions for captions in said.values())}
    if not references:
        first = next(iter(unreadable), "none was given")
        raise EvaluationError(f"{data.name}: not one of {len(data.photos)} photos could be captioned by all models; the first error: {first}")
    captions = {name: {image: mine[image] for image in references} for name, mine in said.items()}
    measured, more = measure(references, captions, metrics=metrics)
    people = Diversity.of([tokenize(every[0]) for every in references.values()])
    thirds = by_length(next(iter(measured.values())).words) if len(references) > 2 else {}
    groups = [group(name, measured, images, resamples, seed) for name, images in ({ALL: None} | thirds).items()]
    return Quality(
        groups=groups,
        diversity={name: Diversity.of(mine.captions) for name, mine in measured.items()},
        people=people,
        images=list(references),
        captions={name: list(mine.values()) for name, mine in captions.items()},
        each={name: {metric: values.tolist() for metric, values in mine.per_image().items()} for name, mine in measured.items()},
        unreadable=list(unreadable),
        notes=notes + more,
    )


def group(name: str, measured: Mapping[str, Measured], images: Array | None, resamples: int, seed: int = 0) -> Group:
    """Score and test the models on some of the photos, given by their numbers; ``None`` is all."""
    (_, first), *others = measured.items()
    settings: dict[str, Any] = {"images": images, "resamples": resamples, "seed": seed}
    scores = {model: intervals(mine.parts, **settings) for model, mine in measured.items()}
    tests = {model: compare(first.parts, mine.parts, **settings) for model, mine in others}
    return Group(name, len(first.images) if images is None else len(images), scores, _corrected(tests))


def _corrected(tests: dict[str, dict[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """Correct the p-values of each metric for the number of models that are compared with the first."""
    out: dict[str, dict[str, Difference]] = {model: {} for model in tests}
    for metric in next(iter(tests.values()), {}):
        found = [test[metric] for test in tests.values()]
        bootstrap, randomisation = (holm(values) for values in ([d.p_bootstrap for d in found], [d.p_randomisation for d in found]))
        for model, difference, *p_values in zip(tests, found, bootstrap, randomisation, strict=True):
            out[model][metric] = replace(difference, p_bootstrap=p_values[0], p_randomisation=p_values[1])
    return out


def _store_for(captioner: Captioner, stores: Mapping[str, FeatureStore]) -> FeatureStore | None:
    """Return the first store that a model's encoder made."""
    for folder in stores:
        try:
            return FeatureStore(folder, encoder=captioner.model.encoder)
        except FeatureStoreError:
            continue  # of another encoder: it could be opened without asking for one
    return None


def _telling(progress: Callable[[str, int, int], None], name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
