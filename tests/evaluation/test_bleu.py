"""BLEU of single captions on word indices, against the field's implementation on strings."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from captioner.evaluation.bleu import SentenceBleu
from captioner.evaluation.cider import _padded

caption = st.lists(st.integers(1, 6), min_size=1, max_size=9)


@given(st.lists(st.tuples(st.lists(caption, min_size=1, max_size=3), caption), min_size=2, max_size=4))
def test_it_is_that_of_pycocoevalcap(images: list[tuple[list[list[int]], list[int]]]) -> None:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer: Any = BleuScorer(n=4)
    for references, candidate in images:
        scorer += (" ".join(map(str, candidate)), [" ".join(map(str, words)) for words in references])
    _, theirs = scorer.compute_score(option="closest")
    ours = SentenceBleu([references for references, _ in images])
    candidates = _padded([candidate for _, candidate in images])
    np.testing.assert_allclose(ours(range(len(images)), candidates), theirs[3], rtol=1e-9, atol=1e-12)
