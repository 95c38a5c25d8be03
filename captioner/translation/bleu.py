"""Scores of translations by sacrebleu: BLEU and chrF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioner.caption import Array
from captioner.errors import EvaluationError
from captioner.evaluation.bootstrap import Interval, intervals
from captioner.evaluation.sums import Sums
from captioner.machine.packages import missing
from captioner.translation.pairs import ParallelText, read_parallel, runs
from captioner.translation.result import Translation
from captioner.translation.translator import Translator

RESAMPLES = 1000


@dataclass(frozen=True)
class TextScores:
    """Scores of translations.

    Attributes:
        scores: each metric with its 95 % confidence interval over resamples of the sentences.
        signatures: sacrebleu's signature of each metric.
    """

    scores: dict[str, Interval]
    signatures: dict[str, str]


def evaluate_translation(
    translator: Translator,
    data: str | Path | ParallelText,
    *,
    split: str = "val",
    batch_size: int = 64,
    context: int = 0,
) -> tuple[TextScores, list[Translation]]:
    """Translate a split and score it against its references; see :func:`score_intervals`.

    Args:
        translator: the translator.
        data: a data folder, or sentence pairs, for which ``split`` is not used.
        split: the split of the folder.
        batch_size: sentences in a batch.
        context: number of previous lines; see :meth:`Translator.stream`. A line that was skipped ends a text.

    Returns:
        The scores, and the translations in the order of the split.

    Raises:
        CaptionerError: the data cannot be read, or sacrebleu is missing.
    """
    require_sacrebleu()
    if not isinstance(data, ParallelText):
        config = translator.model.config
        data = read_parallel(data, split, source=config.source, target=config.target)
    texts_of = runs(data.lines, len(data.pairs)) if context else [list(range(len(data.pairs)))]
    by_text = translate_runs(translator, data, texts_of, batch_size=batch_size, context=context)
    translations = [translation for of_text in by_text for translation in of_text]
    texts = [translation.text for translation in translations]
    return score_intervals(texts, [pair.target for pair in data.pairs]), translations


def translate_runs(
    translator: Translator, text: ParallelText, chosen: Sequence[list[int]], *, batch_size: int, context: int = 0
) -> list[list[Translation]]:
    """Translate the sources of runs of lines in parallel; each run begins without context.

    Args:
        translator: the translator.
        text: the pairs.
        chosen: the runs, as indices of their pairs.
        batch_size: see :meth:`Translator.stream`.
        context: see :meth:`Translator.stream`.
    """
    sources = [source for run in chosen for source in (*(text.pairs[index].source for index in run), "")]
    found = iter(translator(sources, batch_size=batch_size, context=context))
    return [[next(found) for _ in (*run, None)][:-1] for run in chosen]


def score_translations(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Score translations against one reference each: ``BLEU`` (13a, cased) and ``chrF``, from 0 to 1.

    Both are sacrebleu's, with its default settings (Post 2018).

    Raises:
        EvaluationError: sacrebleu is missing.
    """
    return {
        name: metric().corpus_score(list(texts), [list(references)]).score / 100 for name, metric in _metrics().items()
    }


def score_intervals(texts: Sequence[str], references: Sequence[str], *, resamples: int = RESAMPLES) -> TextScores:
    """Score translations as :func:`score_translations` does, with intervals; see :mod:`captioner.evaluation.bootstrap`.

    Raises:
        EvaluationError: sacrebleu is missing.
    """
    signatures = {}
    for name, kind in _metrics().items():
        metric = kind()
        metric.corpus_score(list(texts[:1]), [list(references[:1])])  # without a score it has no signature
        signatures[name] = str(metric.get_signature())
    return TextScores(intervals(measure(texts, references), resamples=resamples), signatures)


def measure(texts: Sequence[str], references: Sequence[str]) -> list[Sums]:
    """Return the metrics as functions of sums over sentences, to score resamples and groups of sentences.

    Raises:
        EvaluationError: sacrebleu is missing.
    """
    return [_sums(name, metric(), texts, references) for name, metric in _metrics().items()]


def _sums(name: str, metric: Any, texts: Sequence[str], references: Sequence[str]) -> Sums:
    """Return sacrebleu's counts of each sentence (I, S), and a function that scores sums of counts."""
    each = np.array(metric._extract_corpus_statistics(list(texts), [list(references)]), dtype=np.float64)

    def score(sums: Array) -> Array:
        rows = [metric._compute_score_from_stats(row).score / 100 for row in sums.reshape(-1, sums.shape[-1]).tolist()]
        return np.array(rows).reshape(*sums.shape[:-1], 1)

    return Sums((name,), each, score)


def require_sacrebleu() -> None:
    """Check that sacrebleu is installed, before any work is done.

    Raises:
        EvaluationError: sacrebleu is missing.
    """
    _metrics()


def _metrics() -> dict[str, Callable[[], Any]]:
    try:
        # sacrebleu is an optional dependency.
        from sacrebleu.metrics import BLEU, CHRF  # type: ignore[import-not-found,attr-defined,unused-ignore]
    except ImportError:
        raise EvaluationError(missing("scoring translations", "sacrebleu")) from None
    return {"BLEU": BLEU, "chrF": CHRF}
