from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def boxes(dataset: Path) -> Path:
    images = [{"id": name, "width": 80, "height": 60} for name in ("red.jpg", "green.png")]
    annotations = [
        {"id": n, "image_id": image["id"], "category_id": 18, "bbox": [10, 10, 40, 40], "iscrowd": 0}
        for n, image in enumerate(images)
    ]
    file = dataset.parent / "instances.json"
    categories = [{"id": 18, "name": "dog"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def test_attention_is_compared_with_boxes(run: Run, model: Path, dataset: Path, boxes: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    arguments = ("ground", model, dataset, boxes, "--split", "val", "--device", "cpu")
    record = json.loads(run(*arguments, "--json", "--output-scores", scores).out)
    references = record["grounding"]["references"]
    assert record["images"] == 2 and references["words"] == 4 and list(references["classes"]) == ["dog"]
    assert references["scores"]["mass, uniform"]["value"] == pytest.approx(40 * 40 / (80 * 60))
    assert json.loads(scores.read_text()) == record
    result = run(*arguments)
    assert result.code == 0 and any("pointing over centre" in line for line in result.lines)
    for label, count in (("words counted", "4"), ("images counted", "2"), ("words of absent classes", "0")):
        (line,) = (line for line in result.lines if label in line)
        assert line.split()[-1] == count


def test_boxes_of_other_images(run: Run, model: Path, dataset: Path, boxes: Path) -> None:
    boxes.write_text(boxes.read_text().replace("red.jpg", "1").replace("green.png", "2"))
    result = run("ground", model, dataset, boxes, "--split", "val")
    assert (result.code, result.out) == (1, "")
    assert str(boxes) in result.err and "image ids must be the same" in result.err


def test_an_ensemble_is_not_compared_with_boxes(run: Run, model: Path, partner: Path, dataset: Path) -> None:
    result = run("ground", f"{model}+{partner}", dataset, dataset)
    assert (result.code, result.out) == (1, "") and "ensemble cannot be used to measure attention" in result.err
