from __future__ import annotations

import pytest

from captioner.evaluation.diversity import Diversity

PEOPLE = [
    f"the {colour} {animal} runs over green grass".split() for colour in ("red", "old", "wet") for animal in ("dog", "cat", "cow", "hen", "fox")
]


def test_shares_are_counted() -> None:
    seen = Diversity.of([["a", "dog", "runs"], ["a", "dog", "runs"], ["a", "dog", "and", "a"], []])
    assert seen == Diversity(words=2.5, distinct_captions=0.75, distinct_bigrams=4 / 7, dangling=0.25)
    assert Diversity.of([]) == Diversity(0.0, 0.0, 0.0, 0.0)


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
