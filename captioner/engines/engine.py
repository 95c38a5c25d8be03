"""The interface of engines. Importing it needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from captioner.caption import MEAN, Caption
from captioner.data.loader import ImageBatch
from captioner.data.transform import Transform
from captioner.errors import CheckpointError
from captioner.search.config import Hypothesis, SearchConfig
from captioner.text.vocabulary import Vocabulary


class Engine(ABC):
    """Runs a model: turns loaded batches of images into captions. Files and folders are left to its caller.

    Attributes:
        vocabulary: the words that it can write.
        transform: from an image to the pixels that it reads.
        search: the model's own search settings.
        attends: whether its captions have attention.
        most_words: the longest caption that the model has positions for; ``None`` without a limit.
    """

    vocabulary: Vocabulary
    transform: Transform
    search: SearchConfig
    attends: bool
    most_words: int | None = None

    @abstractmethod
    def giving(self, attention: str) -> Engine:
        """Return this engine, or another one of the same model that gives a kind of attention.

        Args:
            attention: see :meth:`Captioner.stream`.

        Raises:
            CaptionerError: the model does not have it.
        """

    @abstractmethod
    def in_torch(self) -> Engine | None:
        """Return the engine of the same model in torch; ``None`` without its weights."""

    def encoded_at_once(self, batch_size: int) -> int:
        """Return the size of the batches that :meth:`caption` takes when ``batch_size`` images are searched at once."""
        return batch_size

    @abstractmethod
    def caption(
        self, batches: Iterable[ImageBatch], search: SearchConfig, *, together: int = 1, attention: str = MEAN
    ) -> Iterator[tuple[list[ImageBatch], list[Caption]]]:
        """Caption loaded images.

        Args:
            batches: of as many images as are encoded at once; iterated lazily.
            search: the search settings.
            together: number of batches that are searched at once.
            attention: the kind of attention; see :meth:`Captioner.stream`.

        Yields:
            The batches that were searched at once, and the captions of their images, in order.
        """


def captions_of(hypotheses: Sequence[Hypothesis], vocabulary: Vocabulary, **regions: Any) -> list[Caption]:
    """Return the captions of one image, best first.

    Args:
        hypotheses: of the search.
        vocabulary: their words.
        regions: the fields of :class:`Caption` that locate its regions or cells.
    """
    return [
        Caption(
            text=vocabulary.sentence(hypothesis.words),
            tokens=vocabulary.decode(hypothesis.words),
            log_probability=hypothesis.log_probability,
            attention=hypothesis.attention,
            **regions,
        )
        for hypothesis in hypotheses
    ]


def best_of(captions: Sequence[Caption]) -> Caption:
    """Return the best caption of an image, with the others attached to it.

    Raises:
        CheckpointError: there are none.
    """
    if not captions:
        raise CheckpointError(
            "the model's words have no probabilities: its weights are damaged or too large to compute with; copy the "
            "model folder again, or train it again"
        )
    first, *others = captions
    first.others.extend(others)
    return first
