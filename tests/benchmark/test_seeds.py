from __future__ import annotations

import statistics

import pytest

from captioner.benchmark.markdown import markdown
from captioner.benchmark.quality import Quality
from tests.benchmark.conftest import MIDDLING, POOR, WORDS, compare

RUNS = [("good", 0), ("good", 1), ("poor", 0), ("poor", 1)]


@pytest.fixture(scope="module")
def trained() -> Quality:
    return compare(WORDS, MIDDLING, POOR, POOR, recipes=RUNS)


def test_means_and_deviations_over_seeds(trained: Quality) -> None:
    assert (
        trained.seeds is not None
        and trained.seeds.runs == {"good": ["a", "b"], "poor": ["c", "d"]}
        and trained.seeds.seeds == [0, 1]
    )
    for metric in trained.metrics:
        each = [trained.groups[0].scores[name][metric].value for name in "ab"]
        assert trained.seeds.means.scores["good"][metric].value == pytest.approx(statistics.mean(each))
        assert trained.seeds.deviations["good"][metric] == pytest.approx(statistics.stdev(each))
        assert trained.seeds.deviations["poor"][metric] == 0
    difference = trained.seeds.means.differences["poor"]["CIDEr"]
    assert difference.value == pytest.approx(
        trained.seeds.means.scores["poor"]["CIDEr"].value - trained.seeds.means.scores["good"]["CIDEr"].value
    )


def test_equal_runs_of_a_recipe_are_tested_as_a_single_run(trained: Quality) -> None:
    alike = compare(WORDS, WORDS, POOR, POOR, recipes=RUNS)
    plain = compare(WORDS, POOR)
    assert alike.seeds is not None
    for metric, expected in plain.groups[0].differences["b"].items():
        actual = alike.seeds.means.differences["poor"][metric]
        assert (actual.p_bootstrap, actual.p_randomisation) == (expected.p_bootstrap, expected.p_randomisation)
        assert (actual.low, actual.high) == pytest.approx((expected.low, expected.high))


def test_the_report_has_means_and_single_runs(trained: Quality) -> None:
    text = markdown("toys", trained, {}, resamples=200)
    over, runs = text.split("## Quality of each run")
    assert "## Quality over seeds" in over and "with the seeds 0, 1" in over
    assert trained.seeds is not None
    mean, deviation = trained.seeds.means.scores["good"]["CIDEr"].value, trained.seeds.deviations["good"]["CIDEr"]
    assert deviation is not None and f"**{100 * mean:.1f} ± {100 * deviation:.1f}**" in over
    assert all(f"\n| {name} |" in runs for name in "abcd")


def test_seeds_missing_in_a_recipe_are_left_out() -> None:
    result = compare(
        WORDS, MIDDLING, WORDS, POOR, POOR, recipes=[("good", 0), ("good", 1), ("good", 2), ("poor", 0), ("poor", 2)]
    )
    assert result.seeds is not None and result.seeds.runs == {"good": ["a", "c"], "poor": ["d", "e"]}
    assert compare(WORDS, POOR, recipes=[("good", 0), ("poor", 1)]).seeds is None
    assert compare(WORDS, POOR).seeds is None
