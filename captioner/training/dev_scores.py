"""Scores of captions of the dev images, which select the best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from captioner.data.dataset import CaptionedImage
from captioner.errors import EvaluationError, ImageError
from captioner.evaluation.diversity import Diversity
from captioner.evaluation.metrics import Scorer
from captioner.text.vocabulary import tokenize

_REPORTED = ("BLEU-4", "CIDEr")  # for each data set, if there are several


class DevScores:
    """Scores captions of dev.

    Args:
        images: the dev images, with the references.
        warn: receives a warning of a collapsed model.
    """

    def __init__(self, images: Sequence[CaptionedImage], warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._set_images(images)

    def _set_images(self, images: Sequence[CaptionedImage]) -> None:
        self._images = images
        self._data_sets = _by_data_set(images)
        self._scorers = {
            name: Scorer({image.image_id: image.captions for image in part}) for name, part in self._data_sets.items()
        }
        self._reference = Diversity.of([tokenize(image.captions[0]) for image in images])
        for name, part in self._data_sets.items():
            if len(part) == 1:
                self._warn(
                    f"dev: has one image{f' of {name}' if name else ''}, for which CIDEr is always 0; add images to it "
                    "to select the best epoch"
                )

    def score(self, captions: Mapping[str, str], errors: Iterable[ImageError] = (), *, epoch: int) -> dict[str, float]:
        """Score captions by image id, and warn of a model that writes the same caption for all images.

        With several data sets, the scores are their means, followed by the main ones of each set.

        Args:
            captions: by image id; images without one are left out, also in later calls.
            errors: of the images that could not be read, which are reported once.
            epoch: finished epochs; before the second there is no warning, as a new model often repeats a caption.

        Raises:
            EvaluationError: there is no caption.
        """
        read = [image for image in self._images if image.image_id in captions]
        if not read:
            raise EvaluationError(
                f"none of the {len(self._images):,} dev images can be read, the first: {next(iter(errors), '')}; "
                "if they are elsewhere, give their folder as data.images"
            )
        if len(read) < len(self._images):
            for error in errors:
                self._warn(f"left out: {error}")
            self._set_images(read)
        texts = {image.image_id: captions[image.image_id] for image in self._images}
        diversity = Diversity.of([text.split() for text in texts.values()])
        if epoch > 1 and (symptom := diversity.collapsed(self._reference)):
            self._warn(
                f"the model has collapsed: {symptom}; lower optimiser.learning_rate, or choose another objective"
            )
        scores = {
            name: self._scorers[name](
                {image.image_id: texts[image.image_id] for image in images}, metrics=("BLEU", "CIDEr")
            ).values
            for name, images in self._data_sets.items()
        }
        means = {metric: fmean(each[metric] for each in scores.values()) for metric in next(iter(scores.values()))}
        if len(scores) == 1:
            return means
        return means | {f"{metric} {name}": each[metric] for name, each in scores.items() for metric in _REPORTED}


def _by_data_set(images: Iterable[CaptionedImage]) -> dict[str, list[CaptionedImage]]:
    """Group images by the name of their data set."""
    groups: dict[str, list[CaptionedImage]] = {}
    for image in images:
        groups.setdefault(image.data_set, []).append(image)
    return groups
