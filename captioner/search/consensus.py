"""Ranking the hypotheses of a search by their expected CIDEr, from n-grams predicted for the image.

CIDEr compares a caption c with the references by the cosine of their tf-idf vectors g_n, for n = 1 to 4 (Vedantam
2015, https://arxiv.org/abs/1411.5726, equations 1 to 3):

    CIDEr(c) = 1/4 sum_n mean_s  g_n(c) . g_n(s) / (|g_n(c)| |g_n(s)|)

It is linear in the mean of the normalised vectors of the references s. A prediction of that mean from the image
therefore gives the expected CIDEr of any caption, and choosing the hypothesis with the highest one is minimum Bayes
risk decoding (Kumar and Byrne 2004). As in CIDEr-D, an n-gram that the caption repeats counts once in the product, but
each time in the caption's norm, so repetition is not rewarded. Devlin 2015 (https://arxiv.org/abs/1505.04467) takes the
captions of the nearest training images instead of a prediction; here a regression makes it.

Letters in shapes: B images, D features, R rank, M n-grams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from captioner import files
from captioner.caption import Array
from captioner.errors import CheckpointError, first_line
from captioner.search.config import Hypothesis, SearchConfig
from captioner.store.config import CONSENSUS, COPY, has_consensus

MAX_N = 4
_SCALE = ".row_scale"


@dataclass(frozen=True, eq=False)
class Consensus:
    """A linear map of low rank from the encoder's pooled feature to the mean tf-idf vector of the references.

    The feature is normalised, centred and normalised again. :mod:`captioner.training.consensus` fits the map. Its
    matrices have eight bits and a factor for each row, as in :mod:`captioner.store.weights`.

    Attributes:
        words: (M, 4) int32, the words of each n-gram, 0 after its end.
        idf: (M,) float32, their inverse document frequencies.
        mean: (M,) float32, the mean vector of the training images.
        centre: (D,) float32, the mean of the normalised features of the training images.
        down: (R, D) int8.
        down_scale: (R,) float32.
        up: (M, R) int8.
        up_scale: (M,) float32.
        images: the number of training images; an n-gram that is not among the M has the idf of one that is in a single
            training image.
    """

    words: Array
    idf: Array
    mean: Array
    centre: Array
    down: Array
    down_scale: Array
    up: Array
    up_scale: Array
    images: int

    def save(self, path: str | Path) -> None:
        """Write the map to a safetensors file."""
        from safetensors.numpy import save_file

        arrays = {
            name: np.ascontiguousarray(getattr(self, name.replace(_SCALE, "_scale")), dtype=dtype)
            for name, dtype in _TYPES.items()
        }
        with files.atomic_path(path) as temporary, files.writing(path):
            save_file(arrays, temporary)

    @classmethod
    def load(cls, path: Path, *, features: int | None = None) -> Consensus:
        """Read the map from a safetensors file.

        Args:
            path: the file.
            features: D of the model that it must fit.

        Raises:
            CheckpointError: the file is missing, damaged or another model's, or safetensors is not installed.
        """
        try:
            from safetensors import SafetensorError
            from safetensors.numpy import load_file
        except ImportError as error:
            raise CheckpointError(
                f"{path}: is read by safetensors, which cannot be imported ({first_line(error)}); run: "
                "pip install safetensors"
            ) from None
        try:
            arrays = load_file(path)
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, MemoryError) as error:
            raise CheckpointError(f"{path}: damaged or not a safetensors file ({first_line(error)}); {COPY}") from None
        _check(arrays, features, path)
        images = int(arrays.pop("images")[0])
        return cls(**{name.replace(_SCALE, "_scale"): array for name, array in arrays.items()}, images=images)

    @classmethod
    def of(cls, folder: Path, config: Mapping[str, Any], *, features: int | None = None) -> Consensus | None:
        """Read the map of a model's folder, if the config lists one; see :meth:`load`."""
        return cls.load(folder / CONSENSUS, features=features) if has_consensus(config) else None

    @cached_property
    def _numbers(self) -> dict[tuple[int, ...], int]:
        """The row of each n-gram."""
        return {tuple(word for word in ngram if word): row for row, ngram in enumerate(self.words.tolist())}

    @cached_property
    def _idf(self) -> list[float]:
        numbers: list[float] = self.idf.tolist()
        return numbers

    @cached_property
    def _matrix(self) -> Array:
        return self.down.astype(np.float32) * self.down_scale[:, None]

    def codes(self, pooled: Array) -> Array:
        """Map pooled features (B, D) to the codes (B, R) from which the n-grams are predicted."""
        code: Array = _unit(_unit(pooled.astype(np.float32)) - self.centre) @ self._matrix.T
        return code

    def expected(self, code: Array, rows: Sequence[int]) -> Array:
        """Predict entries of the mean of the normalised tf-idf vectors of the references.

        Args:
            code: (R,) of an image.
            rows: the numbers of K n-grams.

        Returns:
            (K,) float32.
        """
        chosen = np.asarray(rows, dtype=np.intp)
        found: Array = (self.up[chosen].astype(np.float32) @ code) * self.up_scale[chosen] + self.mean[chosen]
        return found

    def expected_cider(self, code: Array, captions: Sequence[Sequence[int]]) -> list[float]:
        """Return the expected CIDEr of captions of one image, each from 0 to about 1.

        Args:
            code: (R,) of the image.
            captions: the captions' word numbers.
        """
        rows_and_weights = [self._weights(words) for words in captions]
        rows = sorted({row for rows, _ in rows_and_weights for row in rows})
        expected = dict(zip(rows, self.expected(code, rows).tolist(), strict=True))
        return [sum(expected[row] * weight for row, weight in zip(*each, strict=True)) for each in rows_and_weights]

    def expected_cider_of_images(self, codes: Array, caption: Sequence[int]) -> Array:
        """Return the expected CIDEr of one caption for each of several images; see :meth:`expected_cider`.

        Args:
            codes: (B, R) of the images.
            caption: its word numbers.

        Returns:
            (B,) float32.
        """
        rows, weights = self._weights(caption)
        chosen, weight = np.asarray(rows, np.intp), np.asarray(weights, np.float32)
        up = weight @ (self.up[chosen] * self.up_scale[chosen, None])
        expected: Array = codes @ up + weight @ self.mean[chosen]
        return expected

    def _weights(self, caption: Sequence[int]) -> tuple[list[int], list[float]]:
        """Return the rows of a caption's n-grams, and the weights by which their expected entries are summed."""
        rows: list[int] = []
        weights: list[float] = []
        unknown = math.log(max(self.images, 2))
        for counts in ngram_counts(caption):
            known = {row: n for ngram, n in counts.items() if (row := self._numbers.get(ngram)) is not None}
            idf = [self._idf[row] for row in known]
            square = sum((n * value) ** 2 for n, value in zip(known.values(), idf, strict=True))
            square += unknown**2 * sum(n**2 for ngram, n in counts.items() if ngram not in self._numbers)
            rows += known
            length = math.sqrt(square) or 1.0  # the idf of n-grams that all images have is zero
            weights += [value / (MAX_N * length) for value in idf]
        return rows, weights


def _unit(rows: Array) -> Array:
    """Divide each row by its norm."""
    unit: Array = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return unit


_TYPES = {
    "words": np.int32,
    "idf": np.float32,
    "mean": np.float32,
    "centre": np.float32,
    "down": np.int8,
    "down" + _SCALE: np.float32,
    "up": np.int8,
    "up" + _SCALE: np.float32,
    "images": np.int32,
}


def _check(arrays: Mapping[str, Array], features: int | None, path: Path) -> None:
    """Check the arrays of a file.

    Raises:
        CheckpointError: one is missing, of another type or shape, or not finite.
    """
    if arrays.keys() != _TYPES.keys():
        found, needed = ", ".join(sorted(arrays))[:200], ", ".join(sorted(_TYPES))
        raise CheckpointError(f"{path}: has {found} and not {needed}; {COPY}")
    m, r = arrays["idf"].shape[:1], arrays["down"].shape[:1]
    d = arrays["centre"].shape[:1] if features is None else (features,)
    shapes = {
        **{name: m for name in ("idf", "mean", "up" + _SCALE)},
        "words": (*m, MAX_N),
        "centre": d,
        "down": (*r, *d),
        "down" + _SCALE: r,
        "up": (*m, *r),
        "images": (1,),
    }
    for name, array in arrays.items():
        if array.dtype != _TYPES[name] or array.shape != shapes[name]:
            found, needed = f"{array.dtype} {array.shape}", f"{np.dtype(_TYPES[name])} {shapes[name]}"
            raise CheckpointError(f"{path}: {name} is {found} and not {needed}; {COPY}")
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} has numbers that are not finite; {COPY}")


def ngram_counts(words: Sequence[int]) -> list[Counter[tuple[int, ...]]]:
    """Count the n-grams of a caption, for each n from 1 to 4."""
    return [
        Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1)) for n in range(1, MAX_N + 1)
    ]


@dataclass(frozen=True)
class ConsensusPrediction:
    """A model's consensus for the images of a batch.

    Attributes:
        consensus: the model's.
        codes: (B, R) of the images; see :meth:`Consensus.codes`.
        numbers: the model's number of each word of the search, if they differ.
    """

    consensus: Consensus
    codes: Array
    numbers: Sequence[int] | None = None

    def expected_cider(self, image: int, captions: Sequence[Sequence[int]]) -> list[float]:
        """Return :meth:`Consensus.expected_cider` of captions of an image."""
        if self.numbers is not None:
            captions = [[self.numbers[word] for word in words] for words in captions]
        return self.consensus.expected_cider(self.codes[image], captions)


def search_with_consensus(
    find: Callable[[SearchConfig, int], list[list[Hypothesis]]],
    config: SearchConfig,
    predictions: Sequence[ConsensusPrediction],
) -> list[list[Hypothesis]]:
    """Search for captions, and rank all hypotheses of the beam by ``score + consensus * expected CIDEr``.

    Args:
        find: searches for captions of B images, given settings and the number of captions to return for each.
        config: the settings.
        predictions: one for each model that has a consensus; the expected CIDEr is their mean.
    """
    if not predictions or not config.consensus or config.width == 1:
        return find(config, config.n_best)
    found = find(config, config.width)
    return rerank(found, [_mean(predictions, image, hypotheses) for image, hypotheses in enumerate(found)], config)


def _mean(predictions: Sequence[ConsensusPrediction], image: int, hypotheses: Sequence[Hypothesis]) -> list[float]:
    captions = [hypothesis.words for hypothesis in hypotheses]
    by_model = (prediction.expected_cider(image, captions) for prediction in predictions)
    return [fmean(values) for values in zip(*by_model, strict=True)]


def rerank(
    found: Sequence[Sequence[Hypothesis]], expected_cider: Sequence[Sequence[float]], config: SearchConfig
) -> list[list[Hypothesis]]:
    """Rank the hypotheses of each image and keep the ``n_best``; finished ones precede all unfinished ones."""
    ranked = []
    for hypotheses, values in zip(found, expected_cider, strict=True):
        scored = [
            replace(hypothesis, score=hypothesis.score + config.consensus * value)
            for hypothesis, value in zip(hypotheses, values, strict=True)
        ]
        scored.sort(key=lambda hypothesis: (hypothesis.finished, hypothesis.score), reverse=True)
        ranked.append(scored[: config.n_best])
    return ranked
