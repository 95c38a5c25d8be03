"""Metrics as functions of sums over images, for scoring resamples of the images quickly.

BLEU of a set is not the mean of its images' BLEU: it is computed from the number of n-grams that matched in all
captions together, and METEOR likewise. So the summed statistics are kept for each image, and the score is a function of
their sums. ROUGE-L, CIDEr and SPICE are means over images. CIDEr's document frequencies are those of the references of
all images, whichever images are then averaged, because they are weights of the metric and not part of the sample.

Letters in shapes: I images, S summed statistics, M metrics computed from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from captioner.caption import Array
from captioner.evaluation.java import Tokens, ptb_tokenize, running_meteor
from captioner.evaluation.metrics import DEFAULT_METRICS, FAMILIES, Scorer, compute, usable_families

ORDERS = 4

# METEOR 1.5's parameters for English (Denkowski and Lavie 2014, https://aclanthology.org/W14-3348), table 1 (task
# "rank").
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MATCH_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # weights of exact, stem, synonym and paraphrase matches


@dataclass(frozen=True)
class Sums:
    """Metrics that are computed from the same sums.

    Attributes:
        names: names of the M metrics.
        each: (I, S) float64, the statistics of each image.
        score: turns sums (..., S) into scores (..., M).
    """

    names: tuple[str, ...]
    each: Array
    score: Callable[[Array], Array]

    def values(self, images: Array | None = None) -> dict[str, float]:
        """Return the scores of all images together, or of those with the given indices."""
        total = (self.each if images is None else self.each[images]).sum(0)
        return dict(zip(self.names, self.score(total).tolist(), strict=True))

    def per_image(self) -> dict[str, Array]:
        """Return the scores of each single image, (I,) for each metric."""
        return dict(zip(self.names, self.score(self.each).T, strict=True))


@dataclass(frozen=True)
class ModelSums:
    """The captions of one model and the sums of their metrics.

    Attributes:
        images: I image ids.
        words: (I,) mean number of words of each image's references.
        captions: I captions, each a tuple of words as the metrics count them.
        parts: the metrics.
    """

    images: tuple[str, ...]
    words: Array
    captions: tuple[tuple[str, ...], ...]
    parts: tuple[Sums, ...]

    def values(self, images: Array | None = None) -> dict[str, float]:
        """Return every metric of all images together, or of those with the given indices."""
        return {name: value for part in self.parts for name, value in part.values(images).items()}

    def per_image(self) -> dict[str, Array]:
        """Return every metric of each single image, (I,) for each metric."""
        return {name: values for part in self.parts for name, values in part.per_image().items()}


def measure(
    references: Mapping[str, Sequence[str]],
    candidates: Mapping[str, Mapping[str, str]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> tuple[dict[str, ModelSums], list[str]]:
    """Measure the captions of several models on the same images.

    The scores of all images are those of :class:`captioner.evaluation.metrics.Scorer`.

    Args:
        references: reference captions by image id.
        candidates: captions by image id, for each model; the images are those of the references.
        metrics: see :class:`captioner.evaluation.metrics.Scorer`.

    Returns:
        The measured captions of each model, and caveats for readers of the numbers.

    Raises:
        EvaluationError: see :class:`captioner.evaluation.metrics.Scorer`.
    """
    families, notes = usable_families(metrics, images=len(references))
    scorer = Scorer(references)
    for captions in candidates.values():
        scorer.check(captions)
    ordered = [{image: [captions[image]] for image in references} for captions in candidates.values()]
    people, *tokens = ptb_tokenize(references, *ordered)
    words = np.array([np.mean([len(caption.split()) for caption in captions]) for captions in people.values()])
    by_family = compute(families, lambda family: _FAMILIES[family](people, tokens))
    measured = {}
    for number, (name, tokenized) in enumerate(zip(candidates, tokens, strict=True)):
        split = tuple(tuple(caption.split()) for (caption,) in tokenized.values())
        parts = tuple(of_models[number] for of_models in by_family)
        measured[name] = ModelSums(tuple(references), words, split, parts)
    return measured, notes


def mean_of(name: str, each: Sequence[float]) -> Sums:
    """Return a metric that is the mean over images; those with an undefined score (NaN) are left out."""
    values = np.asarray(each, dtype=np.float64)
    known = np.isfinite(values)
    return Sums((name,), np.stack([np.where(known, values, 0.0), known.astype(np.float64)], axis=1), ratios)


def ratios(sums: Array) -> Array:
    """Divide sums (..., M + 1) by the last one; the result is zero where that is zero."""
    return sums[..., :-1] / np.maximum(sums[..., -1:], np.finfo(np.float64).tiny)


def bleu_score(sums: Array) -> Array:
    """BLEU-1 to BLEU-4 (Papineni 2002, https://aclanthology.org/P02-1040), with the tiny constants of pycocoevalcap.

    Args:
        sums: (..., 10) for n = 1 to 4 the matched n-grams, clipped; for n = 1 to 4 all n-grams; words; words of the
            closest references.
    """
    small, tiny = 1e-9, 1e-15
    matched, total = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    length, reference_length = sums[..., -2], sums[..., -1]
    precision = (matched + tiny) / (total + small)
    mean = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (length + tiny) / (reference_length + small)
    return mean * np.exp(np.minimum(0.0, 1 - 1 / ratio))[..., None]


def meteor_score(sums: Array) -> Array:
    """METEOR 1.5 (Denkowski and Lavie 2014, equations 1 to 5) from the statistics of its program.

    Args:
        sums: (..., 23), for the candidate and the reference in turn: words, function words; for each of four kinds of
            matches the matched content words and function words; then the number of chunks, and the matched words of
            both. A caption that equals its reference word for word has no chunks, see :func:`whole`.
    """
    of = np.moveaxis(sums, -1, 0)
    matches = of[4:20].reshape(4, 2, 2, *of.shape[1:])  # kind, content or function, candidate or reference
    weights = MATCH_WEIGHTS[:, None] * np.array([DELTA, 1 - DELTA])
    weighted = np.tensordot(weights, matches, axes=((0, 1), (0, 1)))  # candidate or reference
    length = DELTA * (of[0:2] - of[2:4]) + (1 - DELTA) * of[2:4]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = weighted / length
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        chunks, candidate_matches, reference_matches = of[20:23]
        fragmentation = chunks / ((candidate_matches + reference_matches) / 2)
        score = mean * (1 - GAMMA * fragmentation**BETA)
    return np.nan_to_num(score, nan=0.0)[..., None]


def whole(statistics: Array) -> Array:
    """Set the chunks of captions that equal their reference to zero: these are not fragmented.

    METEOR does so before summing the statistics.

    Args:
        statistics: (I, 23), see :func:`meteor_score`.
    """
    out = statistics.copy()
    out[(out[:, 20] == 1) & (out[:, 21] == out[:, 0]) & (out[:, 22] == out[:, 1]), 20] = 0
    return out


def bleu_statistics(pairs: Iterable[tuple[str, Any]]) -> Array:
    """Return the statistics (I, 10) for :func:`bleu_score` of captions with the ``cook_refs`` of their references."""
    from pycocoevalcap.bleu.bleu_scorer import cook_test

    counts = [cook_test(caption, references, eff="closest") for caption, references in pairs]
    rows = [[*one["correct"], *one["guess"], one["testlen"], one["reflen"]] for one in counts]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 2 * ORDERS + 2)


def _bleu(references: Tokens, candidates: Sequence[Tokens]) -> list[Sums]:
    from pycocoevalcap.bleu.bleu_scorer import cook_refs

    cooked = {image: cook_refs(captions) for image, captions in references.items()}
    names = tuple(f"BLEU-{n}" for n in range(1, ORDERS + 1))
    each = [bleu_statistics((caption, cooked[image]) for image, (caption,) in one.items()) for one in candidates]
    return [Sums(names, statistics, bleu_score) for statistics in each]


def _meteor(references: Tokens, candidates: Sequence[Tokens]) -> list[Sums]:
    """Get the statistics of every caption against its best matching reference; one Java process for all models."""
    every = []
    with running_meteor() as meteor:
        for captions in candidates:
            rows = []
            for image, caption in captions.items():
                rows.append([float(number) for number in meteor.statistics(references[image], caption).split()])
                if len(rows[-1]) != 23:
                    raise ValueError(f"it gave {len(rows[-1])} statistics of image {image!r} and not 23")
            every.append(Sums(("METEOR",), whole(np.array(rows)), meteor_score))
    return every


def _means(family: str, references: Tokens, candidates: Sequence[Tokens]) -> list[Sums]:
    return [mean_of(family, FAMILIES[family](references, captions)[family][1]) for captions in candidates]


_FAMILIES: dict[str, Callable[[Tokens, Sequence[Tokens]], list[Sums]]] = {
    "BLEU": _bleu,
    "METEOR": _meteor,
    **{family: partial(_means, family) for family in ("ROUGE-L", "CIDEr", "SPICE")},
}
