"""Scoring translations with sacrebleu."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from captioner.caption import Translation
from captioner.errors import EvaluationError
from captioner.translation.pairs import ParallelText, read_parallel
from captioner.translation.translator import Translator


def evaluate_translation(
    translator: Translator, data: str | Path | ParallelText, *, split: str = "val", batch_size: int = 64
) -> tuple[dict[str, float], list[Translation]]:
    """Translate a split and score it against its references; see :func:`score_translations`.

    Args:
        translator: the translator.
        data: a data folder, or a split of one that was already read, for which ``split`` is not used.
        split: the split of the folder.
        batch_size: sentences translated at once.

    Returns:
        The scores, and the translations in the order of the split.

    Raises:
        CaptionerError: the data cannot be read, or sacrebleu is missing.
    """
    require_sacrebleu()
    if not isinstance(data, ParallelText):
        config = translator.model.config
        data = read_parallel(data, split, source=config.source, target=config.target)
    translations = translator([pair.source for pair in data.pairs], batch_size=batch_size)
    texts = [translation.text for translation in translations]
    return score_translations(texts, [pair.target for pair in data.pairs]), translations


def score_translations(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Score translations against one reference each: ``BLEU`` (13a, cased) and ``chrF``, from 0 to 1.

    Both are sacrebleu's, with its default settings (Post 2018).

    Raises:
        EvaluationError: sacrebleu is missing.
    """
    return {
        name: metric().corpus_score(list(texts), [list(references)]).score / 100 for name, metric in _metrics().items()
    }


def require_sacrebleu() -> None:
    """Check, before any work, that translations can be scored.

    Raises:
        EvaluationError: sacrebleu is missing.
    """
    _metrics()


def _metrics() -> dict[str, Callable[[], Any]]:
    try:
        # sacrebleu is an optional dependency.
        from sacrebleu.metrics import BLEU, CHRF  # type: ignore[import-not-found,attr-defined,unused-ignore]
    except ImportError:
        raise EvaluationError(
            "translations are scored by sacrebleu, which is not installed; install it with: pip install sacrebleu"
        ) from None
    return {"BLEU": BLEU, "chrF": CHRF}
