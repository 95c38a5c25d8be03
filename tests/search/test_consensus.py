"""Hypotheses are chosen by the CIDEr that is expected of them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from captioner.search.config import Hypothesis, SearchConfig
from captioner.search.consensus import Judge, Ngrams, rerank, search_agreeing

CAPTIONS = [
    [[5, 6, 7, 8], [5, 6, 9]],
    [[5, 10, 11], [12, 6, 7, 8, 9]],
    [[10, 11, 5, 6], [9, 9, 9, 9, 6]],
]


def naive_vectors(caption: list[int], df: Counter[tuple[int, ...]], images: int) -> list[dict[tuple[int, ...], float]]:
    """Return the normalised tf-idf vectors of a caption."""
    vectors = []
    for n in range(1, 5):
        counts = Counter(tuple(caption[i : i + n]) for i in range(len(caption) - n + 1))
        vector = {gram: count * math.log(images / max(1, df[gram])) for gram, count in counts.items()}
        length = math.sqrt(sum(value**2 for value in vector.values()))
        vectors.append({gram: value / length for gram, value in vector.items()} if length else {})
    return vectors


def frequencies() -> Counter[tuple[int, ...]]:
    return Counter(
        gram
        for captions in CAPTIONS
        for gram in {
            tuple(caption[i : i + n]) for caption in captions for n in range(1, 5) for i in range(len(caption) - n + 1)
        }
    )


def test_agreement_is_the_mean_cosine_with_peoples_captions() -> None:
    df = frequencies()
    grams = sorted(df)
    words = np.array([[*gram, *[0] * (4 - len(gram))] for gram in grams])
    ngrams = Ngrams(words, np.array([math.log(3 / df[gram]) for gram in grams]), images=3)
    caption = [5, 6, 7, 9, 13]  # 13 is in no caption
    own = naive_vectors(caption, df, 3)
    for captions in CAPTIONS:
        people = [naive_vectors(other, df, 3) for other in captions]
        expected = np.array([np.mean([other[len(gram) - 1].get(gram, 0.0) for other in people]) for gram in grams])
        cosines = [
            sum(value * other[n].get(gram, 0.0) for gram, value in own[n].items()) for other in people for n in range(4)
        ]
        assert ngrams.agreement(caption, expected) == pytest.approx(sum(cosines) / 4 / len(captions))


def test_agreement_is_cider_without_its_length_penalty() -> None:
    """pycocoevalcap's CIDEr-D clips counts and weighs lengths; with equal lengths and single n-grams it is the same."""
    references = {0: ["a b c d", "a b e f"], 1: ["g h i j"], 2: ["a k l m"]}
    numbers: dict[str, int] = {}
    coded = {
        image: [[numbers.setdefault(word, len(numbers) + 1) for word in text.split()] for text in texts]
        for image, texts in references.items()
    }
    caption = "a b c m"
    score, each = Cider().compute_score(references, {0: [caption], 1: ["g h i j"], 2: ["a k l m"]})
    df: Counter[tuple[int, ...]] = Counter(
        gram
        for texts in coded.values()
        for gram in {tuple(text[i : i + n]) for text in texts for n in range(1, 5) for i in range(len(text) - n + 1)}
    )
    grams = sorted(df)
    ngrams = Ngrams(
        np.array([[*gram, *[0] * (4 - len(gram))] for gram in grams]),
        np.array([math.log(3 / df[gram]) for gram in grams]),
        images=3,
    )
    people = [naive_vectors(text, df, 3) for text in coded[0]]
    expected = np.array([np.mean([other[len(gram) - 1].get(gram, 0.0) for other in people]) for gram in grams])
    agreement = ngrams.agreement([numbers[word] for word in caption.split()], expected)
    assert 10 * agreement == pytest.approx(each[0], rel=1e-6) and score > 0


def test_repetition_is_not_rewarded() -> None:
    ngrams = Ngrams(np.array([[5, 0, 0, 0], [6, 0, 0, 0]]), np.array([1.0, 1.0]), images=3)
    expected = np.array([0.6, 0.2])
    once, twice = (ngrams.agreement(words, expected) for words in ([5, 6], [5, 6, 5]))
    assert once == pytest.approx(0.8 / math.sqrt(2) / 4) and twice == pytest.approx(0.8 / math.sqrt(5) / 4)


def hypothesis(score: float, *, finished: bool = True, word: int = 5) -> Hypothesis:
    return Hypothesis([word], score, score, None, finished)


def test_the_hypotheses_are_ranked_by_score_and_agreement() -> None:
    found = [[hypothesis(-1.0), hypothesis(-1.2, word=6), hypothesis(-0.5, word=7, finished=False)]]
    config = SearchConfig(width=3, n_best=2, consensus=10.0)
    for agreements, words in (([0.0, 0.0, 9.0], [5, 6]), ([0.0, 0.03, 9.0], [6, 5])):
        (ranked,) = rerank(found, [agreements], config)
        assert [one.words for one in ranked] == [[word] for word in words]
    assert ranked[0].score == pytest.approx(-0.9) and ranked[0].log_probability == -1.2


def test_the_whole_beam_is_judged_by_all_judges() -> None:
    asked = []

    def find(config: SearchConfig) -> list[list[Hypothesis]]:
        asked.append(config.n_best)
        return [[hypothesis(-1.0, word=5), hypothesis(-1.1, word=6)][: config.n_best]]

    ngrams = Ngrams(np.array([[6, 0, 0, 0], [7, 0, 0, 0]]), np.array([1.0, 1.0]), images=3)
    likes_six = Judge(ngrams, np.array([[0.1, 0.0]]))
    likes_seven = Judge(ngrams, np.array([[0.0, 0.1]]))
    renamed = Judge(ngrams, np.array([[0.0, 0.1]]), numbers=[0, 1, 2, 3, 4, 5, 7])  # its number of word 6 is 7
    config = SearchConfig(width=2)
    for judges, expected in (
        ([], -1.0),
        ([likes_seven], -1.0),
        ([likes_six], 0.15),
        ([likes_six, likes_seven], -0.475),
    ):
        (best,) = search_agreeing(find, config, judges)[0]
        assert best.score == pytest.approx(expected)
    assert search_agreeing(find, config, [renamed])[0][0].words == [6]
    assert asked == [1, 2, 2, 2, 2]
    for off in (config.changed(consensus=0.0), config.changed(width=1)):
        assert search_agreeing(find, off, [likes_six])[0][0].score == -1.0


@pytest.mark.parametrize("caption", [[], [0], [13]])
def test_strange_captions_agree_with_nothing(caption: list[int]) -> None:
    ngrams: Any = Ngrams(np.array([[5, 0, 0, 0]]), np.array([1.0]), images=3)
    assert ngrams.agreement(caption, np.array([0.7])) == 0.0
