from __future__ import annotations

from dataclasses import replace

import pytest

from captioner.benchmark.html_page import most_different
from captioner.benchmark.markdown import markdown
from captioner.benchmark.quality import ALL
from captioner.errors import EvaluationError
from captioner.evaluation.metrics import Scorer
from tests.benchmark.conftest import DATA, POOR, WORDS, compare


def test_scores_tests_and_images_left_out() -> None:
    result = compare([*WORDS[:5], None], POOR, POOR)
    assert result.images == ["0", "1", "2", "3", "4"] and result.unreadable == ["5.jpg: it is broken"]
    whole, *thirds = result.groups
    assert (whole.name, whole.photos, thirds) == (ALL, 5, [])
    assert any(note.startswith("These are few images: below 30, intervals are too narrow") for note in result.notes)
    references = {image.image_id: image.captions for image in DATA.images[:5]}
    expected = Scorer(references)(dict(zip(references, POOR, strict=False)), metrics=("BLEU", "CIDEr"))
    assert {name: interval.value for name, interval in whole.scores["b"].items()} == pytest.approx(expected.values)
    assert list(whole.differences) == ["b", "c"]
    difference = whole.differences["b"]["CIDEr"]
    assert difference.value == pytest.approx(whole.scores["b"]["CIDEr"].value - whole.scores["a"]["CIDEr"].value)
    assert difference == whole.differences["c"]["CIDEr"]
    assert difference.high < 0
    # With five images, 2 of 32 exchanges are as extreme; Holm doubles the p-value for two models.
    assert difference.p_randomisation == pytest.approx(2 * 2 / 32, abs=0.1)

    text = markdown("toys", result, {}, resamples=200)
    assert "1 image was left out: 5.jpg: it is broken" in text
    row = next(line for line in text.splitlines() if line.startswith("| a |"))
    assert "**100.0**" in row
    assert "Holm" in text and "By reference length" not in text


def test_a_single_image_has_no_cider() -> None:
    result = compare([WORDS[0], *[None] * 5], POOR)
    assert any(note.startswith("CIDEr of a single image is always 0") for note in result.notes)
    assert markdown("toys", result, {}, resamples=200).splitlines()[2].startswith("1 image. ")


def test_novel_captions_need_training_captions() -> None:
    without, learned = compare(WORDS, POOR), compare(WORDS, POOR, training=replace(DATA, images=DATA.images[:3]))
    assert without.people.novel is None and any("no train split" in note for note in without.notes)
    assert "novel" not in next(
        line for line in markdown("toys", without, {}, resamples=200).splitlines() if line.startswith("| captions of")
    )
    assert learned.people.novel == learned.diversity["a"].novel == 0.5
    assert learned.diversity["a"].vocabulary == len({word for caption in WORDS for word in caption.split()})
    assert "novel captions" in markdown("toys", learned, {}, resamples=200)


def test_the_images_that_differ_most() -> None:
    result = compare(
        WORDS, ["a dog runs on grass", "nothing", "a cat sleeps", "children play", "a boat", "people eat at a table"]
    )
    assert most_different(result, 12) == sorted(
        (1, 3), key=lambda n: -abs(result.each["a"]["CIDEr"][n] - result.each["b"]["CIDEr"][n])
    )
    assert len(most_different(result, 1)) == 1


def test_no_image_captioned_by_all_models() -> None:
    with pytest.raises(EvaluationError, match=r"none of the 6 images could be captioned by all models.*it is broken"):
        compare([None] * 6, WORDS)
