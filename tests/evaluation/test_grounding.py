from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from captioner import Captioner
from captioner.caption import Caption
from captioner.engines.model import model_engine
from captioner.errors import AnnotationError, CaptionerError, EvaluationError
from captioner.evaluation.grounding import ground
from captioner.evaluation.object_boxes import Boxes, Scene, covered, read_boxes
from captioner.memory import Memory
from captioner.model import CaptionModel, ModelConfig
from captioner.text.vocabulary import Vocabulary

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]


def build(decoder: str = "show_attend_tell", **encoder: Any) -> Captioner:
    config = ModelConfig(
        encoder={"name": "grid", "backbone": "test_efficientnet", "weights": "random", "size": 64, **encoder},
        decoder={"name": decoder, "embedding": 8, "hidden": 8},
        search={"width": 2, "max_words": 5},  # type: ignore[arg-type]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Captioner.from_model(
            CaptionModel.build(config, Vocabulary(["a", "dog", "man", "puppy", "runs"])), device="cpu"
        )


@pytest.fixture
def data(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Two good images, one broken, and one without boxes."""
    folder = tmp_path / "images"
    folder.mkdir()
    images = [{"id": number, "file_name": f"{number}.png", "width": 80, "height": 40} for number in (1, 2, 3)]
    for number in (1, 2, 4):
        Image.linear_gradient("L").rotate(90 * number).resize((80, 40)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"no image")
    images[1]["labelled_categories"] = [1]
    boxes = [
        (1, 18, [0, 0, 40, 40], 0),
        (1, 1, [60, 0, 20, 40], 0),
        (2, 1, [0, 0, 80, 40], 1),
        (2, 18, [40, 0, 40, 20], 0),
        (3, 18, [0, 0, 9, 9], 0),
    ]
    annotations = [
        {"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
        for image, category, box, crowd in boxes
    ]
    instances = tmp_path / "instances.json"
    instances.write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": annotations}))
    texts = {
        1: ["A puppy runs, a cat runs.", "Dog and man"],
        2: ["A man runs with a dog", "a cat"],
        3: ["a dog"],
        4: ["a dog"],
    }
    captions = tmp_path / "captions.json"
    annotations = [
        {"id": 9 * image + number, "image_id": image, "caption": text}
        for image, references in texts.items()
        for number, text in enumerate(references)
    ]
    listed = [{"id": number, "file_name": f"{number}.png"} for number in texts]
    captions.write_text(json.dumps({"images": listed, "annotations": annotations}))
    yield {"instances": instances, "captions": captions, "images": folder}


def test_boxes_of_a_file(data: dict[str, Path]) -> None:
    found = read_boxes(data["instances"])
    assert found["1"].boxes["dog"].tolist() == [[0, 0, 0.5, 1]]
    assert found["1"].absent == {"cat"}
    # Persons are a crowd, and cats were not labelled.
    assert set(found["2"].boxes) == {"dog"} and found["2"].absent == frozenset()


def test_the_covered_share_of_a_region_equals_a_count_of_points() -> None:
    random = np.random.default_rng(0)
    corner = random.uniform(0, 0.7, (5, 2))
    boxes = np.concatenate([corner, corner + random.uniform(0.05, 0.3, (5, 2))], axis=1)
    corner = random.uniform(0, 0.5, (9, 2))
    places = np.concatenate([corner, corner + random.uniform(0.1, 0.5, (9, 2))], axis=1)
    for place, share in zip(places, covered(places, boxes), strict=True):
        points = place[:2] + (np.stack(np.meshgrid(np.arange(400), np.arange(400)), -1).reshape(-1, 2) + 0.5) / 400 * (
            place[2:] - place[:2]
        )
        hits = np.zeros(len(points), dtype=bool)
        for x0, y0, x1, y1 in boxes:
            hits |= (points[:, 0] > x0) & (points[:, 0] < x1) & (points[:, 1] > y0) & (points[:, 1] < y1)
        assert share == pytest.approx(hits.mean(), abs=0.005)
    assert covered(np.zeros((1, 4)), boxes).tolist() == [0.0]


def test_hundreds_of_boxes_of_a_class_take_little_memory() -> None:
    boxes = np.sort(np.random.default_rng(0).random((300, 2, 2)), axis=1).reshape(-1, 4)
    tracemalloc.start()
    assert covered(np.array([[0.4, 0.4, 0.6, 0.6], [0.5, 0.5, 0.5, 0.5]]), boxes).tolist() == pytest.approx([1.0, 0.0])
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_crop_moves_the_regions() -> None:
    """An image twice as wide as high is cropped to its middle square, whose left edge is at a quarter of the width."""
    cells = np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1]])
    boxes = {"dog": np.array([[0.25, 0, 0.5, 1]]), "cat": np.array([[0.0, 0, 0.2, 1]])}
    scene = Scene(cells, Boxes(boxes, frozenset(), (100, 100)), (0.25, 0.0, 0.75, 1.0))
    found = scene.cover("dog")
    assert found is not None
    assert (found[0].tolist(), found[1].tolist()) == ([1.0, 0.0], [True, False])
    assert scene.cover("cat") is None  # cut off
    assert scene.cover("bird") is None


def naive(
    captioner: Captioner, image: Path, captions: list[list[str]], wanted: dict[str, list[float]]
) -> list[tuple[float, float]]:
    """Return pointing and mass of each wanted word of references, step by step, cell by cell."""
    model = model_engine(captioner.engine, "test").model
    pixels = torch.from_numpy(model.encoder.transform.pixels(Image.open(image).convert("RGB"))).unsqueeze(0)
    found = []
    with torch.no_grad():
        memory = model(pixels)
        assert memory.grid is not None
        rows, columns = memory.grid
        for words in captions:
            state = model.decoder.start(memory)
            last = "<bos>"
            for word in words:
                step = model.decoder.step(torch.tensor([[model.vocabulary.index(last)]]), state)
                state, last = step.state, word
                if word not in wanted or step.attention is None:
                    continue
                x0, y0, x1, y1 = wanted[word]
                alpha, mass, best = step.attention[0, 0].tolist(), 0.0, (-1.0, False)
                for place, weight in enumerate(alpha):
                    top, left = place // columns / rows, place % columns / columns
                    width = max(0.0, min(x1, left + 1 / columns) - max(x0, left)) * columns
                    height = max(0.0, min(y1, top + 1 / rows) - max(y0, top)) * rows
                    mass += weight * width * height
                    middle = (left + 0.5 / columns, top + 0.5 / rows)
                    best = max(
                        best, (weight, x0 <= middle[0] <= x1 and y0 <= middle[1] <= y1), key=lambda pair: pair[0]
                    )
                found.append((float(best[1]), mass))
    return found


def test_references_are_measured_as_if_read_word_by_word(data: dict[str, Path]) -> None:
    captioner = build()
    found = ground(captioner, data["instances"], data["captions"], data["images"], resamples=50)
    assert found.images == 2 and [Path(error.source).name for error in found.errors] == ["3.png"]
    expected = naive(
        captioner,
        data["images"] / "1.png",
        [["a", "puppy", "runs", "a", "cat", "runs"], ["dog", "and", "man"]],
        {"puppy": [0, 0, 0.5, 1], "dog": [0, 0, 0.5, 1], "man": [0.75, 0, 1, 1]},
    )
    expected += naive(
        captioner, data["images"] / "2.png", [["a", "man", "runs", "with", "a", "dog"]], {"dog": [0.5, 0, 1, 0.5]}
    )
    words = found.references
    assert (words.words, words.photos, words.absent) == (4, 2, 1)
    assert words.scores["pointing"].value == pytest.approx(np.mean([hit for hit, _ in expected]))
    assert words.scores["mass"].value == pytest.approx(np.mean([mass for _, mass in expected]), abs=1e-6)
    assert words.scores["mass, uniform"].value == pytest.approx(np.mean([0.5, 0.5, 0.25, 0.25]))
    assert words.scores["mass over uniform"].value == pytest.approx(
        words.scores["mass"].value - words.scores["mass, uniform"].value
    )
    assert words.classes["dog"][0] == 3 and words.classes["person"][0] == 1


def test_generated_words_are_scored_by_their_attention(data: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention of "dog" is set to the upper left region, where only the first image has its dog."""
    captioner = build()
    engine = model_engine(captioner.engine, "test")
    model = engine.model
    regions = torch.tensor([[0.0, 0, 0.4, 0.5], [0.6, 0, 1, 0.5], [0, 0, 0, 0]])

    def encode(pixels: Tensor) -> Memory:
        b = len(pixels)
        mask = torch.tensor([True, True, False]).expand(b, 3)
        d = model.encoder.features
        return Memory(torch.zeros(b, 3, d), torch.zeros(b, d), mask=mask, boxes=regions.expand(b, 3, 4))

    monkeypatch.setattr(model, "forward", encode)
    attention = np.array([[0.0, 1, 0], [1, 0, 0]])
    monkeypatch.setattr(
        engine,
        "caption_memory",
        lambda memory, search, **_: (
            [Caption("A dog.", ["a", "dog"], -1.0, attention, boxes=regions.numpy())] * len(memory)
        ),
    )
    found = ground(captioner, data["instances"], data["captions"], data["images"], resamples=200).generated
    assert (found.words, found.photos, found.absent) == (2, 2, 0)
    values = {name: interval.value for name, interval in found.scores.items()}
    assert values["pointing"] == values["mass"] == 0.5
    # The box of the second dog covers the right region; padding is not a region.
    assert values["pointing, uniform"] == values["mass, uniform"] == 0.5
    assert (found.scores["mass"].low, found.scores["mass"].high) == (0.0, 1.0)


def test_models_without_attention_and_unusable_boxes_are_refused(data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="does not attend"):
        ground(build("show_tell"), data["instances"], data["captions"], data["images"])
    empty = tmp_path / "none.json"
    empty.write_text(json.dumps({"images": [], "categories": CATEGORIES, "annotations": []}))
    with pytest.raises(AnnotationError, match="image ids must be the same"):
        ground(build(), empty, data["captions"], data["images"])
    empty.write_text("{}")
    with pytest.raises(AnnotationError, match="not readable as COCO's instances"):
        read_boxes(empty)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"categories": [{"id": 1}]}, "'name' is missing"),
        ({"categories": [7]}, "not subscriptable"),
        ({"annotations": [{"image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1]}]}, "9 is missing"),
        ({"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1]}]}, "not enough values"),
        ({"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, float("nan"), 1]}]}, "a box of image 1 is"),
        ({"annotations": [{"image_id": [], "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "none of its boxes is of one of"),
        ({"images": [{"id": 1, "width": 9, "height": 9}] * 2}, "two of its images have the id 1"),
        (
            {"categories": [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]},
            "two of its categories have the same id",
        ),
        ({"images": [{"id": 1, "width": 0, "height": 5}]}, "the size of image 1 is 0 x 5"),
        ({"images": [{"id": 1, "width": 10**400, "height": 5}]}, "too large"),
        ({"images": None}, "not iterable"),
    ],
)
def test_boxes_with_wrong_values_are_refused(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    fine = {"categories": [{"id": 1, "name": "dog"}], "annotations": [], "images": [{"id": 1, "width": 9, "height": 9}]}
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(fine | change))
    with pytest.raises(AnnotationError, match=rf"not readable as COCO's instances \(.*{why}.*\); give COCO"):
        read_boxes(file)
    file.write_text("[" * 100_000)
    with pytest.raises(AnnotationError, match="nested too deeply"):
        read_boxes(file)
    file.write_text(json.dumps(fine | {"images": [{"id": 1.0, "width": 9, "height": 9}]}))
    assert list(read_boxes(file)) == ["1"]
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
    file.write_text(json.dumps(fine | {"images": [{"id": "1", "width": 9, "height": 9}], "annotations": [box]}))
    assert read_boxes(file)["1"].boxes.keys() == {"dog"} and not read_boxes(file)["1"].absent


def test_images_rotated_against_their_boxes_are_left_out(data: dict[str, Path]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.linear_gradient("L").resize((80, 40)).save(data["images"] / "2.png", format="JPEG", exif=exif)
    found = ground(build(), data["instances"], data["captions"], data["images"], resamples=10)
    assert found.images == 1 and [Path(error.source).name for error in found.errors] == ["2.png", "3.png"]
    assert "is 40 x 80 if upright, and 80 x 40 in the file of boxes" in str(found.errors[0])
    Image.linear_gradient("L").resize((40, 80)).save(data["images"] / "2.png", format="JPEG", exif=exif)
    assert ground(build(), data["instances"], data["captions"], data["images"], resamples=10).images == 2


def test_single_heads_are_measured(data: dict[str, Path]) -> None:
    config = ModelConfig(
        encoder={"name": "grid", "backbone": "test_efficientnet", "weights": "random", "size": 64},
        decoder={"name": "transformer", "blocks": 2, "heads": 2, "size": 8, "feed_forward": 8, "dropout": 0.0},
        search={"width": 2, "max_words": 5},  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    captioner = Captioner.from_model(
        CaptionModel.build(config, Vocabulary(["a", "dog", "man", "puppy", "runs"])), device="cpu"
    )

    def mass(attention: str) -> float:
        found = ground(captioner, data["instances"], data["captions"], attention=attention, resamples=100)
        return found.references.scores["mass"].value

    heads = [mass(f"{block}.{head}") for block in (1, 2) for head in (1, 2)]
    assert mass("mean") == pytest.approx(sum(heads) / 4) and len(set(heads)) == 4
    assert 0 < mass("rollout") < 1
    with pytest.raises(CaptionerError, match=r"there is no head 3\.1"):
        mass("3.1")
    with pytest.raises(EvaluationError, match=r"BLOCK\.HEAD"):
        mass("heads")


def test_the_centre_baseline_is_in_the_middle_of_the_visible_part() -> None:
    """The Gaussian baseline, cell by cell, and whether the middle of a cropped image lies in a box."""
    random = np.random.default_rng(0)
    corner = random.uniform(0, 0.5, (7, 2))
    places = np.concatenate([corner, corner + random.uniform(0.1, 0.5, (7, 2))], axis=1)
    boxes = {"dog": np.array([[0.5, 0.4, 0.7, 0.6]]), "cat": np.array([[0.2, 0.4, 0.59, 0.6]])}
    scene = Scene(places, Boxes(boxes, frozenset(), (100, 100)), (0.2, 0.0, 1.0, 1.0))
    near = []
    for x0, y0, x1, y1 in places:
        x, y = (x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5
        near.append(np.exp(-(x**2 + y**2) / (2 * 0.25**2)))
    np.testing.assert_allclose(scene.centre, np.array(near) / sum(near), rtol=1e-12)
    moved = [[0.2 + 0.8 * x0, y0, 0.2 + 0.8 * x1, y1] for x0, y0, x1, y1 in places]
    np.testing.assert_allclose(scene.regions, moved, rtol=1e-12)
    for name, expected in (("dog", True), ("cat", False)):  # the middle of 0.2 to 1 is 0.6
        found = scene.cover(name)
        assert found is not None and found[2] is expected


@pytest.mark.parametrize(
    ("box", "fine"), [([1, 2, 0, 3], True), ([1, 2, 3, 0], True), ([1, 2, -1, 3], False), ([1, 2, 3, -1], False)]
)
def test_a_box_may_be_a_line_but_not_turned_inside_out(tmp_path: Path, box: list[float], fine: bool) -> None:
    file = tmp_path / "boxes.json"
    annotation = {"image_id": 1, "category_id": 1, "bbox": box}
    image = {"id": 1, "width": 10, "height": 20}
    file.write_text(json.dumps({"categories": CATEGORIES, "annotations": [annotation], "images": [image]}))
    if fine:
        x, y, width, height = box
        expected = [[x / 10, y / 20, (x + width) / 10, (y + height) / 20]]
        np.testing.assert_allclose(read_boxes(file)["1"].boxes["person"], expected)
    else:
        with pytest.raises(AnnotationError, match="a box of image 1 is"):
            read_boxes(file)


def test_generated_words_are_measured_by_the_requested_head(data: dict[str, Path]) -> None:
    config = ModelConfig(
        encoder={"name": "grid", "backbone": "test_efficientnet", "weights": "random", "size": 64},
        decoder={"name": "transformer", "blocks": 1, "heads": 2, "size": 8, "feed_forward": 8, "dropout": 0.0},
        search={"width": 2, "max_words": 5, "min_words": 5},  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    captioner = Captioner.from_model(CaptionModel.build(config, Vocabulary(["dog", "puppy", "dogs"])), device="cpu")

    def mass(attention: str) -> float:
        found = ground(captioner, data["instances"], data["captions"], attention=attention, resamples=100)
        assert found.generated.words == 10  # five words of each of two images
        return found.generated.scores["mass"].value

    first, second = mass("1.1"), mass("1.2")
    assert first != pytest.approx(second, rel=1e-4) and mass("mean") == pytest.approx((first + second) / 2, rel=1e-4)


def test_gains_are_the_models_scores_less_those_of_the_baselines(data: dict[str, Path]) -> None:
    found = ground(build(), data["instances"], data["captions"], data["images"], resamples=100).references
    values = {name: interval.value for name, interval in found.scores.items()}
    assert len(values) == 10 and len({round(value, 6) for value in values.values()}) > 5
    for score in ("pointing", "mass"):
        for baseline in ("uniform", "centre"):
            difference = values[score] - values[f"{score}, {baseline}"]
            assert values[f"{score} over {baseline}"] == pytest.approx(difference, abs=1e-12)
