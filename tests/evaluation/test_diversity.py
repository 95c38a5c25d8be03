from __future__ import annotations

import pytest

from captioner.evaluation.diversity import Diversity, TrainingCaptions
from captioner.text.vocabulary import tokenize

PEOPLE = [
    f"the {colour} {animal} runs over green grass".split()
    for colour in ("red", "old", "wet")
    for animal in ("dog", "cat", "cow", "hen", "fox")
]


def test_shares_are_counted() -> None:
    seen = Diversity.of([["a", "dog", "runs"], ["a", "dog", "runs"], ["a", "dog", "and", "a"], []])
    assert seen == Diversity(
        words=2.5, distinct_captions=0.75, distinct_bigrams=4 / 7, dangling=0.25, vocabulary=4, novel=None
    )
    assert Diversity.of([]) == Diversity(0.0, 0.0, 0.0, 0.0, 0)


def test_novel_captions_are_none_of_the_training_captions_word_by_word() -> None:
    training = TrainingCaptions(["A dog runs .", "a dog's ball", "the cat"])
    captions = [
        ["a", "dog", "runs"],
        ["a", "dog", "'s", "ball"],
        ["a", "dogs", "ball"],
        ["a", "dog"],
        ["the", "cat", "the", "cat"],
    ]
    assert Diversity.of(captions, training).novel == pytest.approx(3 / 5)


def test_the_short_cut_finds_what_tokenising_every_caption_finds() -> None:
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
    found, everything = TrainingCaptions(written), {tuple(tokenize(caption)) for caption in written}
    assert [caption in found for caption in words] == [caption in everything for caption in words]
    assert sum(caption in found for caption in words) > len(written)
    assert "ab" not in found


@pytest.mark.parametrize(
    ("captions", "how"),
    [
        ([caption[:3] for caption in PEOPLE], "3.0 words on average, those of people 7.0"),
        ([["a", "dog", "runs", "on", "grass"]] * 50, "only 2.0 % of the captions differ"),
        ([[*caption, "with", "a"] for caption in PEOPLE], "100 % of the captions break off"),
        (PEOPLE, None),
    ],
)
def test_a_collapse_is_told(captions: list[list[str]], how: str | None) -> None:
    told = Diversity.of(captions).collapsed(Diversity.of(PEOPLE))
    assert told is None if how is None else told is not None and how in told
