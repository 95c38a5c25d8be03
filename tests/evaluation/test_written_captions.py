"""Captioning a split and scoring captions of any program, with a captioner that a test writes down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from captioner.caption import Caption
from captioner.captioner import Captioner
from captioner.data.dataset import CaptionData, CaptionedImage
from captioner.errors import EvaluationError, ImageError
from captioner.evaluation.evaluate import evaluate, generate, score
from captioner.evaluation.metrics import Scorer

REFERENCES = {
    "007": ("A dog runs on grass.", "the dog runs"),
    "12": ("two men on a bench",),
    "x": ("a cat sleeps", "a sleeping cat"),
    "bad": ("a boat at sea",),
    "none": (),
}
DATA = CaptionData(
    "set", "csv", tuple(CaptionedImage(name, Path(f"{name}.jpg"), "test", said) for name, said in REFERENCES.items())
)
WRITTEN = {"007": "a dog runs", "12": "a man", "x": "a cat", "none": "a tree"}


class Writer(Captioner):
    """Writes :data:`WRITTEN`; one image cannot be read."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def stream(self, paths: Iterable[Path], *, batch_size: int = 32) -> Iterator[Caption | ImageError]:  # type: ignore[override]
        self.batch_sizes.append(batch_size)
        for path in paths:
            text = WRITTEN.get(path.stem)
            yield ImageError(path, "is damaged") if text is None else Caption(f"{text}!", text.split(), -1.0)


def writer() -> Any:
    return Writer()


def test_every_image_is_captioned_by_its_id() -> None:
    seen: list[tuple[int, int]] = []
    captioner = writer()
    captions, errors = generate(captioner, DATA, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert captions == WRITTEN and list(captions) == list(WRITTEN)
    assert [error.reason for error in errors] == ["is damaged"]
    assert seen == [(done, 5) for done in range(1, 6)] and captioner.batch_sizes == [3]
    assert generate(captioner, DATA)[0] == WRITTEN and captioner.batch_sizes == [3, 32]


def test_images_without_references_are_captioned_and_not_scored() -> None:
    kept: list[dict[str, str]] = []
    found = evaluate(writer(), DATA, metrics=("ROUGE-L",), keep=kept.append)
    described = {name: WRITTEN[name] for name in ("007", "12", "x")}
    expected = Scorer({name: REFERENCES[name] for name in described})(described, metrics=("ROUGE-L",))
    assert found.scores == expected.values and found.per_image == expected.per_image
    assert found.notes == ["Not scored, for lack of reference captions: 1 image."]
    assert kept == [WRITTEN] == [found.captions] and 0 <= found.seconds < 60
    assert [str(error) for error in found.errors] == [str(error) for error in generate(writer(), DATA)[1]]


def test_nothing_to_score_is_no_failure_and_nothing_to_read_is_one() -> None:
    plain = CaptionData("set", "csv", DATA.images[-1:])
    assert evaluate(writer(), plain, metrics=("BLEU",)).scores == {}
    bad = CaptionData("set", "csv", DATA.images[3:4])
    with pytest.raises(EvaluationError, match=r"set: none of the 1 .*is damaged"):
        evaluate(writer(), bad)
    with pytest.raises(EvaluationError, match="choose from"):
        evaluate(writer(), DATA, metrics=("BLUE",))


def test_captions_of_any_program_are_matched_by_number() -> None:
    given = {"7": "a dog runs", "12": "a man", "99": "a", "98": "b", "97": "c", "96": "d"}
    found = score(given, DATA, metrics=("ROUGE-L",), source="theirs")
    assert found.captions == {"007": "a dog runs", "12": "a man"} and found.seconds == 0
    expected = Scorer({name: REFERENCES[name] for name in found.captions})(found.captions, metrics=("ROUGE-L",))
    assert found.scores == expected.values
    unknown, missing = map(str, found.errors)
    assert unknown.startswith("theirs: 4 captions are of images that set, test does not have: '99', '98', '97', ...")
    assert missing.startswith("theirs: 2 of 4 images have no caption: 'x', 'bad'") and "..." not in missing
    exact = score({name: "a" for name in REFERENCES if name != "none"}, DATA, metrics=("ROUGE-L",))
    assert exact.errors == []


def test_captions_that_match_nothing_are_refused() -> None:
    with pytest.raises(
        EvaluationError, match=r"theirs: no caption is of .* set, test; .* '99'.* '007', '12', 'x', \.\.\."
    ):
        score({"99": "a"}, DATA, source="theirs")
    with pytest.raises(EvaluationError, match="of nothing"):
        score({}, DATA)
    with pytest.raises(EvaluationError, match="set: "):
        score({"none": "a"}, CaptionData("set", "csv", DATA.images[-1:]))
