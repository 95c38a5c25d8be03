"""How good the captions of some models are, each score with its interval, each difference with its p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from captioner.benchmark.captions import Said
from captioner.benchmark.contestants import Contestant
from captioner.benchmark.groups import Group, group
from captioner.benchmark.seeds import Seeds, over_seeds
from captioner.data.dataset import CaptionData
from captioner.errors import EvaluationError
from captioner.evaluation.bootstrap import by_length
from captioner.evaluation.diversity import Diversity, TrainingCaptions
from captioner.evaluation.sums import measure
from captioner.text.vocabulary import tokenize

ALL = "all photos"


@dataclass(frozen=True)
class Quality:
    """What the captions of all models are worth.

    Attributes:
        groups: all photos first, then thirds of them by the length of their references.
        seeds: means and deviations over seeds; ``None`` if nothing was trained with several.
        diversity: of each model's captions.
        people: the same of each photo's first reference.
        images: ids of the photos that every model captioned.
        captions: of each model, in the order of ``images``.
        each: of each model and metric the scores of the single photos, in the same order.
        unreadable: what was wrong with the photos that are left out.
        notes: what a reader of the numbers must know.
    """

    groups: list[Group]
    seeds: Seeds | None
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

    @property
    def metric(self) -> str:
        """The metric by which photos are chosen and that is plotted: CIDEr if there is."""
        return "CIDEr" if "CIDEr" in self.metrics else self.metrics[-1]


def assess(
    contestants: Sequence[Contestant],
    said: Said,
    data: CaptionData,
    *,
    training: CaptionData | None = None,
    metrics: Sequence[str],
    resamples: int,
    seed: int = 0,
) -> Quality:
    """Score what the models said; only photos that all models could caption count.

    Args:
        contestants: the models; the others are compared with the first that said something.
        said: their captions.
        data: the split that they captioned.
        training: the split whose captions do not count as novel; ``None`` if there is none.
        metrics: see :class:`captioner.evaluation.scores.Scorer`.
        resamples: of the intervals and the tests.
        seed: of the resampling.

    Raises:
        EvaluationError: a metric is unknown, no photo could be captioned by all models, or a scorer failed.
    """
    references = {
        photo.image_id: photo.captions
        for photo in data.photos
        if all(photo.image_id in mine for mine in said.captions.values())
    }
    if not references:
        first = next(iter(said.unreadable), "none was given")
        raise EvaluationError(
            f"{data.name}: not one of {len(data.photos)} photos could be captioned by all models; the first error: {first}"
        )
    captions = {name: {image: mine[image] for image in references} for name, mine in said.captions.items()}
    measured, notes = measure(references, captions, metrics=metrics)
    parts = {name: mine.parts for name, mine in measured.items()}
    thirds = by_length(next(iter(measured.values())).words) if len(references) > 2 else {}
    known = (
        None
        if training is None
        else TrainingCaptions(caption for photo in training.photos for caption in photo.captions)
    )
    if known is None:
        notes = [*notes, "The data has no train split, so that nobody can tell which captions are novel."]
    return Quality(
        groups=[
            group(name, parts, images, resamples=resamples, seed=seed)
            for name, images in ({ALL: None} | thirds).items()
        ],
        seeds=over_seeds(contestants, measured, resamples=resamples, seed=seed),
        diversity={
            name: Diversity.of([caption.split() for caption in mine.values()], known) for name, mine in captions.items()
        },
        people=Diversity.of([tokenize(every[0]) for every in references.values()], known),
        images=list(references),
        captions={name: list(mine.values()) for name, mine in captions.items()},
        each={
            name: {metric: values.tolist() for metric, values in mine.per_image().items()}
            for name, mine in measured.items()
        },
        unreadable=list(said.unreadable),
        notes=said.notes + notes,
    )
