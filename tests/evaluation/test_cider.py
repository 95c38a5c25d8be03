"""CIDEr-D on word indices, against the field's implementation on strings and the paper's equation on lists."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.errors import EvaluationError
from captioner.evaluation.cider import CiderD, _padded

Captions = list[list[int]]


def naive(references: list[Captions], images: list[int], candidates: Captions) -> list[float]:
    """Compute the equation on strings, one caption, one n and one n-gram at a time."""

    def grams(caption: list[int], n: int) -> Counter[str]:
        return Counter(" ".join(map(str, caption[i : i + n])) for i in range(len(caption) - n + 1))

    def weigh(counter: Counter[str], n: int) -> dict[str, float]:
        in_images = {
            gram: sum(any(gram in grams(c, n) for c in captions) for captions in references) for gram in counter
        }
        return {
            gram: count * (math.log(len(references)) - math.log(max(1, in_images[gram])))
            for gram, count in counter.items()
        }

    scores = []
    for image, candidate in zip(images, candidates, strict=True):
        total = 0.0
        for n in range(1, 5):
            ours = weigh(grams(candidate, n), n)
            for reference in references[image]:
                theirs = weigh(grams(reference, n), n)
                product = sum(
                    min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs
                )
                norm = math.sqrt(sum(w * w for w in ours.values())) * math.sqrt(sum(w * w for w in theirs.values()))
                length = max(0, len(candidate) - 1) - max(0, len(reference) - 1)
                total += (product / norm if norm else 0.0) * math.exp(-(length**2) / (2 * 6.0**2))
        scores.append(10 * total / 4 / len(references[image]))
    return scores


words = st.integers(1, 6)
caption = st.lists(words, max_size=9)


@given(st.lists(st.lists(caption, min_size=1, max_size=3), min_size=1, max_size=5), st.data())
def test_it_is_the_papers_equation(references: list[Captions], data: st.DataObject) -> None:
    chosen = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(references) - 1), st.lists(st.integers(1, 8), max_size=9)),
            min_size=1,
            max_size=6,
        )
    )
    images, candidates = [image for image, _ in chosen], [c for _, c in chosen]
    scores = CiderD(references, words=9)(images, _padded(candidates))
    np.testing.assert_allclose(scores, naive(references, images, candidates), rtol=0, atol=1e-9)


def test_it_is_the_fields_implementation() -> None:
    from pycocoevalcap.cider.cider import Cider

    random = np.random.default_rng(0)
    references = [[random.integers(1, 40, random.integers(4, 15)).tolist() for _ in range(5)] for _ in range(30)]
    # Candidates that share n-grams with the references: parts of two references.
    candidates = [captions[0][:6] + captions[1][3:] for captions in references]

    def strings(captions: Captions) -> list[str]:
        return [" ".join(map(str, c)) for c in captions]

    as_strings = {i: strings(captions) for i, captions in enumerate(references)}
    mean, each = Cider().compute_score(as_strings, {i: strings([c]) for i, c in enumerate(candidates)})
    scores = CiderD(references, words=40)(range(30), _padded(candidates))
    np.testing.assert_allclose(scores, each, rtol=0, atol=1e-9)
    assert mean == pytest.approx(scores.mean()) and mean > 0.5


def test_empty_captions_score_zero() -> None:
    assert CiderD([[[1, 2]], [[3]]])([1, 0], np.zeros((2, 3), dtype=np.int64)).tolist() == [0.0, 0.0]
    assert CiderD([[[1, 2]], [[3]]])([], np.zeros((0, 3), dtype=np.int64)).shape == (0,)


def test_unscorable_captions_are_refused() -> None:
    with pytest.raises(EvaluationError, match="at least one reference"):
        CiderD([[[1]], []])
    with pytest.raises(EvaluationError, match="images 0 to 0, not of 1 to 1"):
        CiderD([[[1]]])([1], np.array([[1]]))
    with pytest.raises(EvaluationError, match="has the number 7"):
        CiderD([[[1]]])([0], np.array([[7]]))
    with pytest.raises(EvaluationError, match="55,10"):
        CiderD([[[60_000]]])


def test_candidates_without_a_single_word_score_zero() -> None:
    scorer = CiderD([[[1, 2]], [[3]]])
    assert scorer([1, 0], np.zeros((2, 0), dtype=np.int64)).tolist() == [0.0, 0.0]
    assert scorer([], np.zeros((0, 0), dtype=np.int64)).shape == (0,)
