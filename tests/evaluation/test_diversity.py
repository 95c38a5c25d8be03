from __future__ import annotations

from dataclasses import replace

import pytest

from captioner.evaluation.diversity import Diversity, TrainingCaptions
from captioner.text.vocabulary import tokenize

PEOPLE = [
    f"the {colour} {animal} runs over green grass".split()
    for colour in ("red", "old", "wet")
    for animal in ("dog", "cat", "cow", "hen", "fox")
]


def test_shares_are_counted() -> None:
    diversity = Diversity.of([["a", "dog", "runs"], ["a", "dog", "runs"], ["a", "dog", "and", "a"], []])
    assert diversity == Diversity(
        words=2.5, distinct_captions=0.75, distinct_bigrams=4 / 7, dangling=0.25, vocabulary=4, novel=None
    )
    assert Diversity.of([]) == Diversity(0.0, 0.0, 0.0, 0.0, 0)


def test_novel_captions_equal_no_training_caption_word_for_word() -> None:
    training = TrainingCaptions(["A dog runs .", "a dog's ball", "the cat"])
    captions = [
        ["a", "dog", "runs"],
        ["a", "dog", "'s", "ball"],
        ["a", "dogs", "ball"],
        ["a", "dog"],
        ["the", "cat", "the", "cat"],
    ]
    assert Diversity.of(captions, training).novel == pytest.approx(3 / 5)


def test_the_shortcut_finds_what_tokenising_every_caption_finds() -> None:
    written = [
        "A dog's ball.",
        "Two men can't wait !",
        '"Stop" says a sign',
        "a U.S. flag",
        "a 3-wheeled bike",
        "Jim’s café",
        "a . b",
        "ab",
        "cannot_do it",
    ]
    words = [tuple(tokenize(caption)) for caption in written] + [
        ("a", "b"),
        ("ab",),
        ("a", "dogs", "ball"),
        ("cannot", "do", "it"),
        (),
    ]
    training, tokenized = TrainingCaptions(written), {tuple(tokenize(caption)) for caption in written}
    assert [caption in training for caption in words] == [caption in tokenized for caption in words]
    assert sum(caption in training for caption in words) > len(written)
    assert "ab" not in training


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ([caption[:3] for caption in PEOPLE], "3.0 words on average, human captions 7.0"),
        ([["a", "dog", "runs", "on", "grass"]] * 50, "only 2.0 % of the captions differ"),
        ([[*caption, "with", "a"] for caption in PEOPLE], "100 % of the captions break off"),
        (PEOPLE, None),
    ],
)
def test_a_collapse_is_described(captions: list[list[str]], expected: str | None) -> None:
    description = Diversity.of(captions).collapsed(Diversity.of(PEOPLE))
    assert description is None if expected is None else description is not None and expected in description


PERSON = Diversity(words=10.0, distinct_captions=0.9, distinct_bigrams=0.5, dangling=0.2, vocabulary=500)


@pytest.mark.parametrize(
    ("setting", "fine", "collapsed", "why"),
    [
        ("words", 5.0, 4.9, "4.9 words on average, human captions 10.0"),
        ("distinct_captions", 0.05, 0.049, "only 4.9 % of the captions differ"),
        ("distinct_bigrams", 0.01, 0.009, "bigrams 0.9 % are distinct, of human captions 50.0 %"),
        ("dangling", 0.3, 0.31, "31 % of the captions break off"),
    ],
)
def test_captions_collapse_below_a_share_of_human_statistics(
    setting: str, fine: float, collapsed: float, why: str
) -> None:
    assert replace(PERSON, **{setting: fine}).collapsed(PERSON) is None  # type: ignore[arg-type]
    assert why in str(replace(PERSON, **{setting: collapsed}).collapsed(PERSON))  # type: ignore[arg-type]
