from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from captioner.benchmark import quality as module
from captioner.benchmark.page import most_different
from captioner.benchmark.quality import ALL, Quality, assess
from captioner.benchmark.report import markdown
from captioner.data.captions import CaptionData, Photo
from captioner.errors import EvaluationError, ImageError
from captioner.evaluation.scores import score

WORDS = (
    "a dog runs on grass",
    "two men ride red bikes",
    "a cat sleeps",
    "children play with a big ball on the sand",
    "a boat",
    "people eat at a table",
)
DATA = CaptionData("toys", "jsonl", tuple(Photo(str(n), Path(f"{n}.jpg"), "dev", (text, f"there is {text} today")) for n, text in enumerate(WORDS)))


class Speaker:
    """Stands for a captioner: it knows the captions of some photos."""

    def __init__(self, said: Sequence[str | None]) -> None:
        self.said = said


@pytest.fixture
def talking(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(captioner: Speaker, data: CaptionData, **_: object) -> tuple[dict[str, str], list[ImageError]]:
        pairs = list(zip(data.photos, captioner.said, strict=True))
        errors = [ImageError(photo.path, "it is broken") for photo, text in pairs if text is None]
        return {photo.image_id: text for photo, text in pairs if text is not None}, errors

    monkeypatch.setattr(module, "generate", generate)


def compare(*said: Sequence[str | None]) -> Quality:
    models = {name: (lambda words=words: Speaker(words)) for name, words in zip("abc", said, strict=False)}
    return assess(models, DATA, metrics=("BLEU", "CIDEr"), resamples=200)  # type: ignore[arg-type]


@pytest.mark.usefixtures("talking")
def test_scores_tests_and_what_was_left_out() -> None:
    poor = [*WORDS[3:], *WORDS[:3]]
    found = compare([*WORDS[:5], None], poor, poor)
    assert found.images == ["0", "1", "2", "3", "4"] and found.unreadable == ["5.jpg: it is broken"]
    whole, *thirds = found.groups
    assert (whole.name, whole.photos, sum(third.photos for third in thirds)) == (ALL, 5, 5)
    references = {photo.image_id: photo.captions for photo in DATA.photos[:5]}
    expected = score(dict(zip(references, poor, strict=False)), references, metrics=("BLEU", "CIDEr"))
    assert {name: interval.value for name, interval in whole.scores["b"].items()} == pytest.approx(expected.values)
    assert list(whole.differences) == ["b", "c"]
    difference = whole.differences["b"]["CIDEr"]
    assert difference.value == pytest.approx(whole.scores["b"]["CIDEr"].value - whole.scores["a"]["CIDEr"].value)
    assert difference == whole.differences["c"]["CIDEr"]
    assert difference.high < 0
    # With five photos 2 of 32 exchanges are as extreme, and there are two models.
    assert difference.p_randomisation == pytest.approx(2 * 2 / 32, abs=0.1)

    text = markdown("toys", found, {}, resamples=200)
    assert "1 photos were left out: 5.jpg: it is broken" in text
    row = next(line for line in text.splitlines() if line.startswith("| a |"))
    assert "**100.0**" in row
    assert "Holm" in text and "references of up to" in text


@pytest.mark.usefixtures("talking")
def test_the_photos_that_differ_most() -> None:
    found = compare(WORDS, ["a dog runs on grass", "nothing", "a cat sleeps", "children play", "a boat", "people eat at a table"])
    assert most_different(found, 12, "CIDEr") == sorted((1, 3), key=lambda n: -abs(found.each["a"]["CIDEr"][n] - found.each["b"]["CIDEr"][n]))
    assert len(most_different(found, 1, "CIDEr")) == 1


@pytest.mark.usefixtures("talking")
def test_no_photo_that_all_could_caption() -> None:
    with pytest.raises(EvaluationError, match=r"not one of 6 photos could be captioned by all models.*it is broken"):
        compare([None] * 6, WORDS)
