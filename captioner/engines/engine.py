"""The interface of engines. Importing it needs no torch.

Letters in shapes: B images, N cells, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from captioner.caption import MEAN, Array, Caption
from captioner.data.loader import ImageBatch
from captioner.data.transform import Transform
from captioner.errors import CaptionerError, CheckpointError
from captioner.search.config import Hypothesis, SearchConfig
from captioner.search.consensus import Consensus
from captioner.text.vocabulary import Vocabulary


class Engine(ABC):
    """Runs a model: turns loaded batches of images into captions. Its caller handles files and folders.

    Attributes:
        vocabulary: the words that it can write.
        transform: from an image to the pixels that it reads.
        search: the model's own search settings.
        attends: whether its captions have attention.
        most_words: the longest caption that the model has positions for; ``None`` without a limit.
        grid: rows and columns of the cells that it attends to; ``None`` for regions and for several models.
        consensus: predicts the n-grams of captions, if the model does.
    """

    vocabulary: Vocabulary
    transform: Transform
    search: SearchConfig
    attends: bool
    most_words: int | None = None
    grid: tuple[int, int] | None = None
    consensus: Consensus | None = None

    @abstractmethod
    def for_attention(self, attention: str) -> Engine:
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

    def features(self, batches: Iterable[ImageBatch]) -> Iterator[tuple[ImageBatch, Array]]:
        """Yield each batch with the features of its images, (B, N, D) float32, the cells in row-major order.

        Raises:
            CaptionerError: the engine has no :attr:`grid`.
        """
        raise CaptionerError(_NO_GRID)

    def log_likelihoods(self, features: Array, caption: Sequence[int]) -> Array:
        """Return the log-probability of one caption for each of several images, (B,) float32.

        Args:
            features: (B, N, D) float32, or (B, n, D) averages over n equal parts of the grid, as :func:`averaged` gives
                them; every cell of a part then has its average.
            caption: ``<bos> w_1 ... w_T <eos>``.

        Raises:
            CaptionerError: the engine has no :attr:`grid`.
        """
        raise CaptionerError(_NO_GRID)


_NO_GRID = "this needs one model that attends to a grid of cells, such as show_attend_tell; give one"


def averaged(features: Array, grid: tuple[int, int], side: int) -> Array:
    """Return the means (B, side * side, D) of the features (B, N, D) in equal parts of the grid.

    Args:
        features: of the cells of the grid, in row-major order.
        grid: (rows, columns); a side that ``side`` does not divide gives parts that differ by one cell.
        side: rows and columns of parts, at most those of the grid.
    """
    b, _, d = features.shape
    rows, columns = (np.array_split(np.arange(length), side) for length in grid)
    cells = features.reshape(b, *grid, d)
    parts = [
        cells[:, row[0] : row[-1] + 1, column[0] : column[-1] + 1].mean((1, 2)) for row in rows for column in columns
    ]
    found: Array = np.stack(parts, axis=1)
    return found


def spread(parts: Array, grid: tuple[int, int]) -> Array:
    """Return features (B, N, D) in which every cell has the mean of its part; the inverse shape of :func:`averaged`."""
    side = round(parts.shape[1] ** 0.5)
    row, column = (np.repeat(np.arange(side), [len(part) for part in np.array_split(np.arange(n), side)]) for n in grid)
    cells: Array = parts[:, (row[:, None] * side + column).ravel()]
    return cells


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
