from __future__ import annotations

import numpy as np
import pytest

from captioner.errors import EvaluationError
from captioner.evaluation.metrics import Scorer
from captioner.evaluation.sums import mean_of, measure, meteor_score, whole

REFERENCES = {
    "a": ["A brown dog runs through the grass.", "A dog is running outside", "the dog races over a green lawn ."],
    "b": ["Two children play football on the beach.", "Kids kick a ball; it's sunny!"],
    "c": ["A cat sleeps on the sofa.", "The cat's asleep.", "A sleeping cat", "a cat on a couch", "cat, sofa"],
    "d": ["A man in a red shirt rides a bike.", "A cyclist wearing red"],
    "e": ["A boat on the water", "A boat sails."],
}
GOOD = {
    "a": "a dog runs through the green grass",
    "b": "two kids play ball on the beach",
    "c": "a sleeping cat",
    "d": "a woman rides",
    "e": "",
}
POOR = {
    "a": "a dog",
    "b": "a man on a beach with a ball and a ball",
    "c": "a dog is sleeping on a couch",
    "d": "purple",
    "e": "boats at sea",
}
METRICS = ("BLEU", "ROUGE-L", "CIDEr")


def test_scores_are_those_of_pycocoevalcap() -> None:
    measured, notes = measure(REFERENCES, {"good": GOOD, "poor": POOR}, metrics=METRICS)
    assert notes == []
    for name, captions in (("good", GOOD), ("poor", POOR)):
        expected = Scorer(REFERENCES)(captions, metrics=METRICS)
        assert measured[name].values() == pytest.approx(expected.values, abs=1e-12)
        each = measured[name].per_image()
        for row, image in enumerate(REFERENCES):
            assert {metric: values[row] for metric, values in each.items()} == pytest.approx(
                expected.per_image[image], abs=1e-12
            )
    assert measured["good"].captions[2] == ("a", "sleeping", "cat")
    assert measured["good"].words[4] == pytest.approx((5 + 3) / 2)


def test_meteor_is_that_of_its_program(few_paraphrases: None) -> None:
    measured, _ = measure(REFERENCES, {"good": GOOD}, metrics=("METEOR",))
    expected = Scorer(REFERENCES)(GOOD, metrics=("METEOR",))
    assert measured["good"].values() == pytest.approx(expected.values, abs=1e-12)
    assert list(measured["good"].per_image()["METEOR"]) == pytest.approx(
        [expected.per_image[image]["METEOR"] for image in REFERENCES], abs=1e-12
    )
    assert expected.values["METEOR"] > 0.2


def test_repeated_images_score_as_a_set_that_holds_them_twice() -> None:
    from pycocoevalcap.bleu.bleu import Bleu

    measured, _ = measure(REFERENCES, {"poor": POOR}, metrics=("BLEU",))
    picked = np.array([1, 1, 4, 2, 1])
    references, candidates = (
        {
            str(number): [caption.lower().strip(" .!") for caption in captions[list(REFERENCES)[image]]]
            for number, image in enumerate(picked)
        }
        for captions in (
            {image: [" ".join(words) for words in _words(image)] for image in REFERENCES},
            {image: [caption] for image, caption in POOR.items()},
        )
    )
    expected, _ = Bleu(4).compute_score(references, candidates, verbose=0)
    assert list(measured["poor"].values(picked).values()) == pytest.approx(expected, rel=1e-12)


def _words(image: str) -> list[list[str]]:
    from captioner.evaluation.java import ptb_tokenize

    return [caption.split() for caption in ptb_tokenize({image: REFERENCES[image]})[0][image]]


def test_meteor_of_a_set_from_the_statistics_of_its_program() -> None:
    # What METEOR 1.5 answers to SCORE and then to EVAL: captions that are similar, equal in stems, the same as the
    # reference, without a match, and empty.
    answers = """
        7 8 2 4 2 2 1 1 0 0 0 0 0 0 0 0 1 1 0 1 3 4 5
        5 5 2 2 1 1 2 2 1 1 0 0 0 0 0 0 0 0 0 0 2 4 4
        5 5 2 2 3 3 2 2 0 0 0 0 0 0 0 0 0 0 0 0 1 5 5
        1 2 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
        0 2 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
    """
    rows = whole(np.array([[float(number) for number in line.split()] for line in answers.strip().splitlines()]))
    assert meteor_score(rows)[:, 0].tolist() == pytest.approx(
        [0.25724984432536646, 0.2952867001592558, 1.0, 0.0, 0.0], abs=1e-12
    )
    assert meteor_score(rows.sum(0)).item() == pytest.approx(0.30346134235826855, abs=1e-12)


def test_an_image_without_a_score_does_not_count() -> None:
    assert mean_of("SPICE", [0.5, float("nan"), 0.25]).values() == {"SPICE": 0.375}
    assert mean_of("SPICE", [float("nan")]).values() == {"SPICE": 0.0}


def test_models_must_have_captioned_the_same_images() -> None:
    with pytest.raises(EvaluationError, match="not captioned"):
        measure(REFERENCES, {"good": GOOD, "poor": {"a": "a dog"}}, metrics=METRICS)


@pytest.mark.parametrize(
    ("words", "reference_words", "chunks", "matched", "reference_matched", "expected"),
    [
        (5, 5, 1, 5, 5, 0),
        (5, 6, 1, 5, 5, 1),  # the reference has another word
        (6, 5, 1, 5, 5, 1),  # the caption has
        (5, 5, 2, 5, 5, 2),  # in another order
        (5, 5, 1, 4, 5, 1),
        (5, 5, 1, 5, 4, 1),
    ],
)
def test_chunks_change_only_for_captions_equal_to_their_reference(
    words: int, reference_words: int, chunks: int, matched: int, reference_matched: int, expected: int
) -> None:
    row = np.full((1, 23), 9.0)
    row[0, [0, 1, 20, 21, 22]] = words, reference_words, chunks, matched, reference_matched
    found = whole(row)
    assert found[0, 20] == expected and row[0, 20] == chunks
    assert np.array_equal(np.delete(found, 20, axis=1), np.delete(row, 20, axis=1))
