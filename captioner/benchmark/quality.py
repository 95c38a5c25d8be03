"""Quality of the captions of several contestants: scores with intervals, differences with p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from captioner.benchmark.captions import GeneratedCaptions
from captioner.benchmark.contestants import Contestant
from captioner.benchmark.groups import Group, group
from captioner.benchmark.seeds import Seeds, over_seeds
from captioner.data.dataset import CaptionData
from captioner.errors import EvaluationError
from captioner.evaluation.bootstrap import FEWEST, by_length
from captioner.evaluation.diversity import Diversity, TrainingCaptions
from captioner.evaluation.sums import measure
from captioner.text.vocabulary import tokenize

ALL = "all images"


@dataclass(frozen=True)
class Quality:
    """Quality of the captions of all models.

    Attributes:
        groups: results on all images first, then, unless these are few, on thirds of them by the length of their
            references.
        seeds: means and deviations over seeds; ``None`` if no recipe was trained with several seeds.
        diversity: diversity of each model's captions.
        people: diversity of the human captions: each image's first reference.
        images: ids of the images that every model captioned.
        captions: captions of each model, in the order of ``images``.
        each: scores of each image by model and metric, in the same order.
        left_out: number of images that are left out because not every model captioned them.
        unreadable: errors of these images.
        notes: caveats for readers of the numbers.
        given: names of the contestants read from results files; they have no cost and no attention.
    """

    groups: list[Group]
    seeds: Seeds | None
    diversity: dict[str, Diversity]
    people: Diversity
    images: list[str]
    captions: dict[str, list[str]]
    each: dict[str, dict[str, list[float]]]
    left_out: int
    unreadable: list[str]
    notes: list[str]
    given: list[str]

    @property
    def metrics(self) -> list[str]:
        """Names of the computed metrics."""
        return list(next(iter(self.groups[0].scores.values())))

    @property
    def metric(self) -> str:
        """The metric for choosing images and for the plot: CIDEr if it was computed, else the last metric."""
        return "CIDEr" if "CIDEr" in self.metrics else self.metrics[-1]


def assess(
    contestants: Sequence[Contestant],
    generated: GeneratedCaptions,
    data: CaptionData,
    *,
    training: CaptionData | None = None,
    metrics: Sequence[str],
    resamples: int,
    seed: int = 0,
) -> Quality:
    """Score the generated captions; only images that all models captioned count.

    Args:
        contestants: the models that have captions and may be runs of recipes; see :func:`over_seeds`.
        generated: the captions of all; the others are compared with the first.
        data: the captioned split.
        training: the split whose captions do not count as novel; ``None`` if there is none.
        metrics: see :class:`captioner.evaluation.metrics.Scorer`.
        resamples: number of resamples for intervals and tests.
        seed: seed of the resampling.

    Raises:
        EvaluationError: a metric is unknown, no image could be captioned by all models, or a scorer failed.
    """
    references = {
        image.image_id: image.captions
        for image in data.images
        if all(image.image_id in captions for captions in generated.captions.values())
    }
    if not references:
        first = next(iter(generated.unreadable), "none reported")
        raise EvaluationError(
            f"{data.name}: none of the {len(data.images)} images could be captioned by all models; "
            f"the first error: {first}"
        )
    captions = {name: {image: every[image] for image in references} for name, every in generated.captions.items()}
    measured, notes = measure(references, captions, metrics=metrics)
    parts = {name: scored.parts for name, scored in measured.items()}
    thirds = by_length(next(iter(measured.values())).words) if len(references) >= FEWEST else {}
    if not thirds:
        notes = [
            *notes,
            f"These are few images: below {FEWEST}, intervals are too narrow and p-values of the bootstrap too small.",
        ]
    known = (
        None
        if training is None
        else TrainingCaptions(caption for image in training.images for caption in image.captions)
    )
    if known is None:
        notes = [*notes, "The data has no train split, so novel captions cannot be counted."]
    return Quality(
        groups=[
            group(name, parts, images, resamples=resamples, seed=seed)
            for name, images in ({ALL: None} | thirds).items()
        ],
        seeds=over_seeds(contestants, measured, resamples=resamples, seed=seed),
        diversity={
            name: Diversity.of([tokenize(caption) for caption in by_image.values()], known)
            for name, by_image in captions.items()
        },
        people=Diversity.of([tokenize(texts[0]) for texts in references.values()], known),
        images=list(references),
        captions={name: list(by_image.values()) for name, by_image in captions.items()},
        each={
            name: {metric: values.tolist() for metric, values in scored.per_image().items()}
            for name, scored in measured.items()
        },
        left_out=len(data.images) - len(references),
        unreadable=list(generated.unreadable),
        notes=generated.notes + notes,
        given=list(generated.given),
    )
