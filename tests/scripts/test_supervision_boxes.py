"""Boxes from several files and the detector are joined class by class."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.evaluation.object_boxes import read_boxes
from captioner.features import build_store
from captioner.model import build_encoder
from tests.scripts.test_cards import load


def instances(path: Path, image: dict[str, object], *boxes: tuple[str, list[float]]) -> Path:
    names = ["person", "dog", "cat"]
    content = {
        "images": [image],
        "annotations": [
            {"image_id": image["id"], "category_id": names.index(name), "bbox": box} for name, box in boxes
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    path.write_text(json.dumps(content))
    return path


def test_the_first_file_that_settles_a_class_counts(tmp_path: Path, repository: Path) -> None:
    script = load(repository, "supervision_boxes")
    size = {"width": 100, "height": 50}
    first = instances(
        tmp_path / "a.json", {"id": 1, "coco_id": 7, "labelled_categories": [1, 2], **size}, ("dog", [0, 0, 50, 25])
    )
    second = instances(
        tmp_path / "b.json",
        {"id": 7, "labelled_categories": [], **size},
        ("dog", [9, 9, 9, 9]),
        ("person", [0, 0, 10, 10]),
    )
    detector = [("7", {"cat": [[0, 0, 1, 1]], "person": [[0, 0, 1, 1]], "bus": [[0, 0, 1, 1]]}, set())]
    boxes, counts = script.join({"a": script.annotated(first), "b": script.annotated(second), "it": detector})
    # The first file has the dog and no cat, the second the person; the detector adds the bus.
    assert {name: np.asarray(one).tolist() for name, one in boxes["7"].items()} == {
        "dog": [[0, 0, 0.5, 0.5]],
        "person": [[0, 0, 0.1, 0.2]],
        "bus": [[0, 0, 1, 1]],
    }
    assert counts == {"a": 1, "b": 1, "it": 1}


@pytest.mark.slow
def test_the_file_has_the_ids_and_sizes_of_the_captions(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = repository / "assets" / "examples" / "dog.jpg"
    (tmp_path / "captions.csv").write_text(f"image,caption\n{photo},a dog\n")
    build_store(tmp_path / "store", build_encoder({"name": "regions"}), [(str(photo), photo)])
    script = load(repository, "supervision_boxes")
    output = tmp_path / "boxes.json"
    arguments = ["--data", tmp_path / "captions.csv", "--regions", tmp_path / "store", "-o", output]
    monkeypatch.setattr(sys, "argv", ["supervision_boxes.py", *map(str, arguments)])
    script.main()
    (known,) = read_boxes(output).values()
    with Image.open(photo) as opened:
        assert known.size == opened.size
    (box,) = known.boxes["dog"]
    assert box[2] - box[0] > 0.3 and box[3] - box[1] > 0.3 and not known.absent
