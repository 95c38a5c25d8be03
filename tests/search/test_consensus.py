"""Hypotheses are chosen by the CIDEr that is expected of them."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocoevalcap.cider.cider import Cider
from safetensors.numpy import load_file, save_file

from captioner.errors import CheckpointError
from captioner.search.config import Hypothesis, SearchConfig
from captioner.search.consensus import Consensus, ConsensusPrediction, rerank, search_with_consensus
from captioner.store.weights import dequantised

CAPTIONS = [
    [[5, 6, 7, 8], [5, 6, 9]],
    [[5, 10, 11], [12, 6, 7, 8, 9]],
    [[10, 11, 5, 6], [9, 9, 9, 9, 6]],
]


def predicting(words: Sequence[Sequence[int]], idf: Sequence[float], expected: Sequence[float]) -> Consensus:
    """Return a map of three training images that predicts the same numbers for every image."""
    return Consensus(
        words=np.array([[*ngram, *[0] * (4 - len(ngram))] for ngram in words], dtype=np.int32),
        idf=np.array(idf, dtype=np.float32),
        mean=np.array(expected, dtype=np.float32),
        centre=np.zeros(2, dtype=np.float32),
        down=np.zeros((1, 2), dtype=np.int8),
        down_scale=np.zeros(1, dtype=np.float32),
        up=np.zeros((len(words), 1), dtype=np.int8),
        up_scale=np.zeros(len(words), dtype=np.float32),
        images=3,
    )


def expected_cider(consensus: Consensus, caption: Sequence[int]) -> float:
    (found,) = consensus.expected_cider(consensus.codes(np.ones((1, 2)))[0], [caption])
    return found


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


def test_expected_cider_is_the_mean_cosine_with_peoples_captions() -> None:
    df = frequencies()
    grams = sorted(df)
    idf = [math.log(3 / df[gram]) for gram in grams]
    caption = [5, 6, 7, 9, 13]  # 13 is in no caption
    own = naive_vectors(caption, df, 3)
    for captions in CAPTIONS:
        people = [naive_vectors(other, df, 3) for other in captions]
        expected = [float(np.mean([other[len(gram) - 1].get(gram, 0.0) for other in people])) for gram in grams]
        cosines = [
            sum(value * other[n].get(gram, 0.0) for gram, value in own[n].items()) for other in people for n in range(4)
        ]
        found = expected_cider(predicting(grams, idf, expected), caption)
        assert found == pytest.approx(sum(cosines) / 4 / len(captions))


def test_expected_cider_is_cider_without_its_length_penalty() -> None:
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
    people = [naive_vectors(text, df, 3) for text in coded[0]]
    expected = [float(np.mean([other[len(gram) - 1].get(gram, 0.0) for other in people])) for gram in grams]
    consensus = predicting(grams, [math.log(3 / df[gram]) for gram in grams], expected)
    found = expected_cider(consensus, [numbers[word] for word in caption.split()])
    assert 10 * found == pytest.approx(each[0], rel=1e-6) and score > 0


def test_repetition_is_not_rewarded() -> None:
    consensus = predicting([[5], [6]], [1.0, 1.0], [0.6, 0.2])
    once, twice = (expected_cider(consensus, words) for words in ([5, 6], [5, 6, 5]))
    assert once == pytest.approx(0.8 / math.sqrt(2) / 4) and twice == pytest.approx(0.8 / math.sqrt(5) / 4)


def hypothesis(score: float, *, finished: bool = True, word: int = 5) -> Hypothesis:
    return Hypothesis([word], score, score, None, finished)


def test_hypotheses_are_ranked_by_score_and_expected_cider() -> None:
    found = [[hypothesis(-1.0), hypothesis(-1.2, word=6), hypothesis(-0.5, word=7, finished=False)]]
    config = SearchConfig(width=3, n_best=2, consensus=10.0)
    for expected, words in (([0.0, 0.0, 9.0], [5, 6]), ([0.0, 0.03, 9.0], [6, 5])):
        (ranked,) = rerank(found, [expected], config)
        assert [one.words for one in ranked] == [[word] for word in words]
    assert ranked[0].score == pytest.approx(-0.9) and ranked[0].log_probability == -1.2


def test_the_whole_beam_is_ranked_by_the_mean_over_the_models() -> None:
    counts = []

    def find(config: SearchConfig, count: int) -> list[list[Hypothesis]]:
        assert config.n_best == 1
        counts.append(count)
        return [[hypothesis(-1.0, word=5), hypothesis(-1.1, word=6)][:count]]

    code = np.zeros((1, 1), dtype=np.float32)
    for_six = ConsensusPrediction(predicting([[6], [7]], [1.0, 1.0], [0.1, 0.0]), code)
    for_seven = ConsensusPrediction(predicting([[6], [7]], [1.0, 1.0], [0.0, 0.1]), code)
    renamed = replace(for_seven, numbers=[0, 1, 2, 3, 4, 5, 7])  # its number of word 6 is 7
    config = SearchConfig(width=2)
    for predictions, expected in (
        ([], -1.0),
        ([for_seven], -1.0),
        ([for_six], 0.15),
        ([for_six, for_seven], -0.475),
    ):
        (best,) = search_with_consensus(find, config, predictions)[0]
        assert best.score == pytest.approx(expected)
    assert search_with_consensus(find, config, [renamed])[0][0].words == [6]
    assert counts == [1, 2, 2, 2, 2]
    for off in (config.changed(consensus=0.0), config.changed(width=1)):
        assert search_with_consensus(find, off, [for_six])[0][0].score == -1.0


@pytest.mark.parametrize("caption", [[], [0], [13]])
def test_captions_without_known_ngrams_have_an_expected_cider_of_zero(caption: list[int]) -> None:
    assert expected_cider(predicting([[5]], [1.0], [0.7]), caption) == 0.0


def random_map(features: int = 8) -> Consensus:
    rng = np.random.default_rng(0)
    return replace(
        predicting([[5], [6], [5, 6]], [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]),
        centre=rng.random(features, dtype=np.float32),
        down=rng.integers(-127, 128, (2, features), dtype=np.int8),
        down_scale=rng.random(2, dtype=np.float32),
        up=rng.integers(-127, 128, (3, 2), dtype=np.int8),
        up_scale=rng.random(3, dtype=np.float32),
    )


def test_the_map_is_the_product_of_its_matrices() -> None:
    consensus, pooled = random_map(), torch.rand(4, 8, generator=torch.Generator().manual_seed(0))
    down, up = (dequantised(*map(torch.from_numpy, pair)) for pair in matrices(consensus))
    normal = torch.nn.functional.normalize(torch.nn.functional.normalize(pooled) - torch.from_numpy(consensus.centre))
    every = normal @ down.T @ up.T + torch.from_numpy(consensus.mean)
    for code, expected in zip(consensus.codes(pooled.numpy()), every.numpy(), strict=True):
        np.testing.assert_allclose(consensus.expected(code, [2, 0]), expected[[2, 0]], rtol=1e-4)


def test_without_safetensors_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_map().save(tmp_path / "consensus.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(CheckpointError, match=r"read by safetensors, which cannot be .*pip install safetensors"):
        Consensus.load(tmp_path / "consensus.safetensors")


def matrices(consensus: Consensus) -> list[tuple[Any, Any]]:
    return [(consensus.down, consensus.down_scale), (consensus.up, consensus.up_scale)]


def test_a_file_holds_the_map_and_fits_one_model(tmp_path: Path) -> None:
    consensus, path = random_map(), tmp_path / "consensus.safetensors"
    consensus.save(path)
    again = Consensus.load(path, features=8)
    assert asdict(again).keys() == asdict(consensus).keys()
    for name, value in asdict(consensus).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    with pytest.raises(CheckpointError, match=r"centre is float32 \(8,\) and not float32 \(9,\)"):
        Consensus.load(path, features=9)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"idf": np.ones(2, dtype=np.float32)}, r"is .* \(3.*\) and not .* \(2.*\)"),
        ({"down": np.ones((2, 8), dtype=np.float32)}, "down is float32 .* and not int8"),
        ({"idf": np.array(1.0, dtype=np.float32)}, "and not"),
        ({"mean": np.array([1, np.nan, 1], dtype=np.float32)}, "mean has numbers that are not finite"),
        ({"more": np.ones(1)}, "has centre, down, .*more.* and not centre"),
        (None, "damaged or not a safetensors file"),
    ],
)
def test_a_damaged_file_is_refused(changed: dict[str, Any] | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "consensus.safetensors"
    random_map().save(path)
    if changed is None:
        path.write_bytes(path.read_bytes()[:-9])
    else:
        save_file({**load_file(path), **changed}, path)
    with pytest.raises(CheckpointError, match=f"{path.name}: .*{why}"):
        Consensus.load(path)
