from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import pytest

from captioner.caption import Array
from captioner.evaluation import bootstrap
from captioner.evaluation.bootstrap import Interval, by_length, compare, holm, intervals
from captioner.evaluation.sums import Sums, bleu_score, mean_of

IMAGES = 400


def scores(shift: float = 0.0, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0.5 + shift, 0.2, IMAGES)


def means(values: Sequence[float] | Array) -> list[Sums]:
    return [mean_of("CIDEr", list(values))]


def bleu_rows(seed: int, images: int = IMAGES) -> Array:
    """Draw plausible statistics of captions of ten words."""
    random = np.random.default_rng(seed)
    there = np.array([10, 9, 8, 7])
    matched = np.stack(
        [random.binomial(count, share, images) for count, share in zip(there, (0.7, 0.5, 0.3, 0.2), strict=True)],
        axis=1,
    )
    return np.concatenate(
        [matched, np.tile(there, (images, 1)), np.full((images, 1), 10), random.integers(9, 13, (images, 1))], axis=1
    ).astype(float)


def two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))


def test_the_interval_of_a_mean_is_the_analytic_one() -> None:
    values = scores()
    found = intervals(means(values))["CIDEr"]
    half = 1.96 * values.std(ddof=1) / math.sqrt(IMAGES)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.04 * half)


def test_the_tests_of_a_mean_are_the_analytic_ones() -> None:
    one = scores()
    two = one + np.random.default_rng(5).normal(0.012, 0.15, IMAGES) + 0.005
    found = compare(means(one), means(two))["CIDEr"]
    error = (two - one).std(ddof=1) / math.sqrt(IMAGES)
    expected = two_sided((two - one).mean() / error)
    assert 0.01 < expected < 0.5
    assert found.value == pytest.approx((two - one).mean())
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * error, found.value + 1.96 * error), abs=0.08 * error
    )
    assert found.p_bootstrap == pytest.approx(expected, abs=0.02)
    assert found.p_randomisation == pytest.approx(expected, abs=0.02)


def test_pairing_finds_a_difference_that_the_variance_of_images_hides() -> None:
    one = scores()
    found = compare(means(one), means(one + np.random.default_rng(1).normal(0.01, 0.02, IMAGES)))["CIDEr"]
    assert max(found.p_bootstrap, found.p_randomisation) < 0.001 < found.low
    unpaired = intervals(means(one))["CIDEr"]
    assert unpaired.low < unpaired.value + found.value < unpaired.high


def test_equal_models_do_not_differ() -> None:
    rows = bleu_rows(0)
    parts = [Sums(("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"), rows, bleu_score), *means(scores())]
    for difference in compare(parts, parts, resamples=100).values():
        assert (difference.value, difference.p_bootstrap, difference.p_randomisation) == (0.0, 1.0, 1.0)


def test_resamples_of_bleu_are_scored_as_sets() -> None:
    """The replicates' spread is that of BLEU computed naively on images drawn one by one."""
    rows = bleu_rows(1, 60)
    parts = [Sums(("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"), rows, bleu_score)]
    found = intervals(parts)["BLEU-4"]
    random = np.random.default_rng(9)
    naive = []
    for _ in range(4000):
        total = rows[random.integers(60, size=60)].sum(0)
        precisions = [total[n] / total[4 + n] for n in range(4)]
        naive.append(math.prod(precisions) ** 0.25 * min(1.0, math.exp(1 - total[9] / total[8])))
    assert (found.low, found.high) == pytest.approx(np.quantile(naive, (0.025, 0.975)), abs=0.01)
    assert found.low < found.value < found.high


def test_a_single_image_shows_no_difference() -> None:
    found = compare(means([0.2]), means([0.9]), resamples=100)["CIDEr"]
    assert (found.p_bootstrap, found.p_randomisation) == (1.0, 1.0)


def test_images_that_are_not_selected_do_not_matter() -> None:
    one, two, chosen = scores(), scores(0.02, 3), np.arange(0, IMAGES, 3)
    assert intervals(means(one), images=chosen, resamples=200) == intervals(means(one[chosen]), resamples=200)
    assert compare(means(one), means(two), images=chosen, resamples=200) == compare(
        means(one[chosen]), means(two[chosen]), resamples=200
    )


def test_resamples_depend_only_on_the_seed() -> None:
    assert intervals(means(scores()), resamples=50) == intervals(means(scores()), resamples=50)
    assert intervals(means(scores()), resamples=50) != intervals(means(scores()), resamples=50, seed=1)


def test_ten_thousand_resamples_of_a_thousand_images_take_seconds() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    began = time.process_time()
    intervals([*means(values), Sums(("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"), bleu_rows(0, 1000), bleu_score)])
    assert time.process_time() - began < 5


def test_thirds_by_length_hold_every_image_once() -> None:
    words = np.random.default_rng(0).uniform(5, 20, 90)
    groups = by_length(words)
    assert sorted(np.concatenate(list(groups.values())).tolist()) == list(range(90))
    assert [len(images) for images in groups.values()] == [30, 30, 30]
    short, middle, long = (words[images] for images in groups.values())
    assert short.max() <= middle.min() and middle.max() <= long.min()
    assert [len(images) for images in by_length(np.full(7, 10.0)).values()] == [7]


def test_holms_correction() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_an_interval_is_written_in_percent() -> None:
    assert Interval(0.2412, 0.2288, 0.2531).percent() == "24.1 [22.9, 25.3]"


def test_thirds_are_named_by_their_lengths() -> None:
    words = np.array([4.0, 5, 6, 7, 8, 9, 10])
    groups = {name: words[images].tolist() for name, images in by_length(words).items()}
    assert groups == {
        "references of up to 6.0 words": [4, 5, 6],
        "6.0 to 8.0 words": [7, 8],
        "more than 8.0 words": [9, 10],
    }


def test_resamples_in_parts_are_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = means(scores()), means(scores(0.02, 3))
    whole = intervals(one, resamples=100), compare(one, two, resamples=100)
    for rows in (0, 1, 7, 100):  # of the largest matrix, whose memory is limited
        monkeypatch.setattr(bootstrap, "_CELLS", rows * IMAGES)
        parts = intervals(one, resamples=100), compare(one, two, resamples=100)
        for ours, theirs in zip(parts, whole, strict=True):
            assert astuple(ours["CIDEr"]) == pytest.approx(astuple(theirs["CIDEr"]))


def test_p_values_count_the_observation_itself() -> None:
    """Of three images whose captions are exchanged, the sign of the difference is all that can change."""
    one, two = means([0.0, 0.0, 0.0]), means([1.0, 1.0, 1.0])
    found = compare(one, two, resamples=4000)["CIDEr"]
    # All three exchanged or none of them: 2 of 8 ways.
    assert found.p_randomisation == pytest.approx(1 / 4, abs=0.03)
    assert found.p_bootstrap == pytest.approx(1 / 4001)  # every resample differs by exactly 1
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
