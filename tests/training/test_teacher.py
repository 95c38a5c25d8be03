"""What a student learns, against what the teacher's own search and naive computations give."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from captioner import Captioner
from captioner.checkpoint import load_model
from captioner.data.batches import EncodedCaptions, Sample
from captioner.data.dataset import Photo
from captioner.errors import AnnotationError, CheckpointError, ConfigError
from captioner.features import FeatureStore
from captioner.text.vocabulary import tokenize
from captioner.training.fit import Run, run
from captioner.training.recipe import load_config
from captioner.training.rehearsal import rehearse
from captioner.training.teacher import FILE, TeacherConfig, closest_first, distilled
from tests.evaluation.test_cider import naive
from tests.training.conftest import COLOURS
from tests.training.test_fit import identical


@pytest.fixture
def teacher(tiny: Path, tmp_path: Path) -> Path:
    """A model that was trained a little."""
    changes = ["epochs=8", "evaluation.every=8", "fine_tune.from_epoch=1", "fine_tune.learning_rate=0.01"]
    return run(tiny, changes, output=tmp_path / "teacher", console=quiet())


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """A folder of six photos without captions, one of which cannot be read."""
    folder = tmp_path / "unlabelled" / "deep"
    folder.mkdir(parents=True)
    for number, colour in enumerate([*COLOURS.values(), (90, 90, 90)]):
        Image.new("RGB", (40, 40), colour).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder.parent


def quiet() -> Console:
    return Console(file=io.StringIO(), width=500)


def written(output: Path) -> tuple[dict[str, object], dict[str, list[str]]]:
    head, *records = map(json.loads, (output / FILE).read_text(encoding="utf-8").splitlines())
    return head, {record["image"]: record.get("captions", []) for record in records}


def start(tiny: Path, output: Path, *changes: str) -> Run:
    return Run(load_config(tiny, changes, output), resume=False, console=quiet())


def test_the_student_learns_what_the_teachers_own_search_finds(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    changes = [f"data.teacher={{model: {teacher}, width: 3, captions: 2}}", "data.min_count=13"]  # no colour
    made = start(tiny, tmp_path / "run", *changes)
    head, beams = written(tmp_path / "run")
    assert head["teacher"] == str(teacher) and list(beams) == [f"{number}.png" for number in range(24)]
    found = Captioner.from_pretrained(teacher, device="cpu", width=3, n_best=3)([tmp_path / name for name in beams])
    alone = Captioner.from_pretrained(teacher, device="cpu", width=3)([tmp_path / name for name in beams])
    for beam, caption, best in zip(beams.values(), found, alone, strict=True):
        assert beam == [one.text for one in (caption, *caption.others)] and beam[0] == best.text
        assert [tokenize(text) for text in beam] == [one.tokens for one in (caption, *caption.others)]
    # The batches hold these captions and nothing else, in the student's own words.
    learned = [[made.model.vocabulary.encode(text) for text in beam[:2]] for beam in beams.values()]
    assert made.encoded.numbers == learned
    rows = {
        photo: row for batch in made.batches(0, 0) for photo, row in zip(batch.captions.photos, batch.captions.inputs)
    }
    for photo, row in rows.items():
        assert {tuple(caption[caption > 0].tolist()) for caption in row if caption[0]} == {
            tuple(caption[:-1]) for caption in learned[photo]
        }
    assert len(rows) == 24
    assert (
        made.model.vocabulary
        == start(tiny, tmp_path / "plain", changes[1]).model.vocabulary
        != load_model(teacher).vocabulary
    )
    assert [photo.captions for photo in made.dev.photos] == [
        (f"a {colour} picture", f"this one is all {colour}") for colour in [*COLOURS, *COLOURS]
    ]
