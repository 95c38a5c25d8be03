"""The small detector: its losses on partly labelled images, its training, and the script that trains it."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou

from captioner.encoders.detector import build_detector, load_detector, parts, shipped_detector, torchvision_detector
from captioner.encoders.faster_rcnn import Detector, DetectorConfig
from captioner.encoders.grid import GridConfig, GridEncoder
from captioner.encoders.partial_labels import PartialLabelRPN, covered, hide_unlisted
from captioner.errors import EncoderError
from captioner.store import DETECTOR, shipped
from captioner.store.weights import write_folder

SIZE = 64
CLASSES = ("red", "green")


def tiny(**settings: Any) -> Detector:
    """Build a fast detector of random weights."""
    torch.manual_seed(0)
    config = DetectorConfig(**{"backbone": "test_efficientnet", "size": SIZE, "width": 16, "hidden": 32, **settings})
    return build_detector(config, CLASSES, pretrained=False).eval()


def target(
    boxes: list[list[float]] | None = None, labels: list[int] | None = None, **changes: Any
) -> dict[str, Tensor]:
    """Describe an image whose objects all have boxes, unless changed."""
    none = torch.empty(0, 4)
    return {
        "boxes": torch.tensor(boxes) if boxes else none,
        "labels": torch.tensor(labels or [], dtype=torch.long),
        "others": none,
        "ignored": none,
        "listed": torch.ones(len(CLASSES), dtype=torch.bool),
        "trust": torch.tensor(1.0),
        **changes,
    }


def save(folder: Path, detector: Detector, *, half: bool = False) -> Path:
    """Write a detector as ``scripts/train_detector.py`` does."""
    weights, config = parts(detector, half=half)
    return write_folder(folder, DETECTOR, weights=weights, config=config, others={})


def squares(count: int, seed: int, size: int = SIZE) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Draw a red or green square on grey, in the range of normalised pixels."""
    chance = random.Random(seed)
    images, targets = torch.zeros(count, 3, size, size), []
    for image in images:
        side, label = chance.randint(size // 4, size // 2), chance.randint(1, 2)
        x, y = chance.randint(0, size - side), chance.randint(0, size - side)
        image[label - 1, y : y + side, x : x + side] = 2.0
        targets.append(target([[x, y, x + side, y + side]], [label]))
    return images, targets


def test_background_has_no_gradient_on_unlisted_classes() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 2, 3, 0])
    listed = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0]]).bool()
    loss = nn.functional.cross_entropy(hide_unlisted(logits, labels, listed), labels, reduction="none")
    for row in range(6):
        values = logits[row].tolist()
        among = [0, *(c + 1 for c in range(3) if listed[row, c] or labels[row] > 0)]
        naive = -values[labels[row]] + math.log(sum(math.exp(values[c]) for c in among))
        assert loss[row].item() == pytest.approx(naive, abs=1e-12)
    loss.sum().backward()
    assert logits.grad is not None
    hidden = torch.cat([torch.zeros(6, 1).bool(), ~listed & (labels == 0).unsqueeze(1)], dim=1)
    assert hidden.sum() == 6 and (logits.grad[hidden] == 0).all() and (logits.grad[~hidden][1:] != 0).any()
    assert logits.grad[2, 0] == 0  # without listed classes, the background has no gradient


def test_covered_is_half_of_ones_own_area() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [5, 0, 15, 10], [6, 0, 16, 10], [2, 2, 4, 4], [50, 50, 60, 60]]).float()
    regions = torch.tensor([[0, 0, 10, 10], [0, 0, 1, 1]]).float()
    assert covered(boxes, regions).tolist() == [True, True, False, True, False]
    assert not covered(boxes, regions[:0]).any()


def anchors_of(detector: Detector) -> Tensor:
    images = torch.zeros(1, 3, SIZE, SIZE)
    anchors: Tensor = detector.rpn.anchor_generator(detector._batch(images), list(detector.maps(images)[0].values()))[0]
    return anchors


def test_anchors_in_crowds_have_no_loss_and_rare_classes_are_positives() -> None:
    rpn, anchors = tiny().rpn, anchors_of(tiny())
    assert isinstance(rpn, PartialLabelRPN)
    rare, crowd = torch.tensor([[2.0, 2, 30, 30]]), torch.tensor([[32.0, 32, 64, 64]])
    (labels,), (matched,) = rpn.assign_targets_to_anchors([anchors], [target(others=rare, ignored=crowd)])
    (plain,), _ = rpn.assign_targets_to_anchors([anchors], [target(others=rare)])
    positive = labels == 1
    assert positive.any() and torch.equal(positive, plain == 1)
    assert torch.equal(matched[positive], rare.expand(int(positive.sum()), 4))
    inside = [
        max(0.0, min(x1, 64) - max(x0, 32)) * max(0.0, min(y1, 64) - max(y0, 32)) >= 0.5 * (x1 - x0) * (y1 - y0)
        for x0, y0, x1, y1 in anchors.tolist()
    ]
    expected = torch.where(torch.tensor(inside) & (plain == 0), torch.tensor(-1.0), plain)
    assert torch.equal(labels, expected) and (labels == -1).sum() > (plain == -1).sum()


def test_background_of_half_labelled_images_weighs_less() -> None:
    rpn, anchors = tiny().rpn, anchors_of(tiny())
    assert isinstance(rpn, PartialLabelRPN)
    targets = [target([[4, 4, 40, 40]], [1], trust=torch.tensor(0.25)), target([[8, 20, 60, 60]], [2])]
    labels, matched = rpn.assign_targets_to_anchors([anchors, anchors], targets)
    goals = rpn.box_coder.encode(matched, [anchors, anchors])
    torch.manual_seed(1)
    objectness, deltas = torch.randn(2 * len(anchors), 1), torch.randn(2 * len(anchors), 4)
    torch.manual_seed(2)
    picked = [one.bool() | other.bool() for one, other in zip(*rpn.fg_bg_sampler(labels), strict=True)]
    errors = weights = boxes = 0.0
    for image, trust in enumerate((0.25, 1.0)):
        for anchor in picked[image].nonzero().flatten().tolist():
            row, truth = image * len(anchors) + anchor, labels[image][anchor].item()
            weight = 1.0 if truth else trust
            chance = 1 / (1 + math.exp(-objectness[row].item()))
            errors -= weight * math.log(chance if truth else 1 - chance)
            weights += weight
            for off in (deltas[row] - goals[image][anchor]).abs().tolist() if truth else ():
                boxes += 4.5 * off**2 if off < 1 / 9 else off - 1 / 18
    torch.manual_seed(2)
    found = rpn.compute_loss(objectness, deltas, labels, list(goals))
    assert found[0].item() == pytest.approx(errors / weights, rel=1e-4)
    assert found[1].item() == pytest.approx(boxes / sum(int(one.sum()) for one in picked), rel=1e-4)


def test_an_unlisted_class_gets_no_gradient_from_an_empty_image() -> None:
    detector = tiny().train()
    losses = detector(torch.randn(2, 3, SIZE, SIZE), [target(listed=torch.tensor([True, False]))] * 2)
    losses["loss_classifier"].backward()
    gradient = detector.roi_heads.box_predictor.inner.cls_score.weight.grad
    assert isinstance(gradient, Tensor)
    assert [bool(row.any()) for row in gradient] == [True, True, False]


def test_proposals_in_ignored_regions_have_no_loss() -> None:
    detector = tiny().train()
    everywhere = torch.tensor([[0.0, 0, SIZE, SIZE]])
    losses = detector(torch.randn(1, 3, SIZE, SIZE), [target([[8, 8, 40, 40]], [1], ignored=everywhere)])
    losses["loss_classifier"].backward()
    bias = detector.roi_heads.box_predictor.inner.cls_score.bias
    assert isinstance(bias, Tensor) and bias.grad is not None
    assert bias.grad[1] < 0 < bias.grad[0]  # only the boxed class is learned, not the background


def test_batch_normalisation_keeps_its_statistics_and_the_rest_is_trained() -> None:
    detector = tiny().train()
    before = {name: tensor.clone() for name, tensor in detector.named_buffers()}
    sum(detector(*squares(2, 0)).values()).backward()
    assert before and all(torch.equal(tensor, before[name]) for name, tensor in detector.named_buffers())
    assert [name for name, weight in detector.named_parameters() if weight.grad is None] == []


@pytest.mark.slow
def test_a_few_steps_find_red_and_green_squares() -> None:
    torch.manual_seed(0)
    size = 128  # on smaller images few anchors fit the squares, and so few steps of training need not suffice
    detector = build_detector(
        DetectorConfig(backbone="efficientnet_lite0", size=size, width=32, hidden=64), CLASSES
    ).train()
    detector.body.requires_grad_(False)
    optimiser = torch.optim.AdamW([weight for weight in detector.parameters() if weight.requires_grad], lr=2e-3)
    losses = []
    for step in range(60):
        loss = torch.stack(list(detector(*squares(4, step, size)).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-8:]) < 0.4 * np.mean(losses[:4])
    images, targets = squares(16, 1000, size)
    with torch.inference_mode():
        found = detector.eval()(images)
    pairs = list(zip(found, targets, strict=True))
    assert np.mean([box_iou(one["boxes"][:1], truth["boxes"]).item() for one, truth in pairs]) > 0.5
    assert sum(int(one["labels"][0] == truth["labels"][0]) for one, truth in pairs) >= 13


@pytest.mark.parametrize("size", [224, 384, 448])
def test_nearly_every_object_matches_an_anchor(size: int) -> None:
    random = torch.Generator().manual_seed(0)
    detector = tiny(size=size)
    images = torch.zeros(1, 3, size, size)
    (anchors,) = detector.rpn.anchor_generator(detector._batch(images), list(detector.maps(images)[0].values()))
    # Sides and shapes (height to width, most are slim in squashed images) as images of people and animals have them.
    side = 0.08 * (0.9 / 0.08) ** torch.rand(300, generator=random)
    shape = 0.6 * (3.5 / 0.6) ** torch.rand(300, generator=random)
    extent = (torch.stack([side / shape.sqrt(), side * shape.sqrt()], dim=1)).clamp(max=0.98)
    corner = torch.rand(300, 2, generator=random) * (1 - extent)
    best = box_iou(torch.cat([corner, corner + extent], dim=1) * size, anchors).max(1).values
    assert best.mean() > 0.6 and (best >= 0.5).float().mean() > 0.9


@torch.inference_mode()
def test_a_saved_detector_is_the_same_and_a_halved_one_nearly(tmp_path: Path) -> None:
    detector, images = tiny(), torch.randn(2, 3, SIZE, SIZE)
    whole = load_detector(save(tmp_path / "whole", detector))
    halved = load_detector(save(tmp_path / "half", detector, half=True))
    expected = detector.maps(images)[1]
    assert torch.equal(whole.maps(images)[1], expected) and whole.classes == CLASSES and not whole.training
    torch.testing.assert_close(halved.maps(images)[1], expected, rtol=0.05, atol=0.05)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.65 * sizes[0]
    assert all(tensor.dtype == torch.float32 for tensor in halved.parameters())
    assert load_detector(tmp_path / "whole", size=96).transform.size == 96


UNREADABLE = "not a readable detector.*copy the whole model folder"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", None, UNREADABLE),
        ("model.safetensors", "not safetensors", UNREADABLE),
        ("config.json", None, UNREADABLE),
        ("config.json", "[]", UNREADABLE),
        ("config.json", '{"kind": "detector", "format": 99}', "upgrade captioner"),
        ("config.json", '{"kind": "captioner", "format": 1}', "is a captioner and not a detector"),
    ],
)
def test_a_damaged_detector_is_refused(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    folder = save(tmp_path / "detector", tiny())
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(EncoderError, match=message):
        load_detector(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights, config = parts(tiny())
    weights = {name: tensor / 0 for name, tensor in weights.items()}
    with pytest.raises(EncoderError, match="numbers that are not finite"):
        load_detector(write_folder(tmp_path, DETECTOR, weights=weights, config=config, others={}))


def test_a_missing_detector_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("captioner.store.names.PACKAGE", tmp_path / "captioner")
    with pytest.raises(EncoderError, match=r"scripts/train_detector\.py.*detector: torchvision"):
        shipped_detector()
    save(tmp_path / "assets" / "detector", tiny())
    assert shipped_detector() == tmp_path / "assets" / "detector"
    assert not shipped()  # it is not a captioner


def test_a_backbone_without_the_maps_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"not at \(8, 16, 32\)"):
        build_detector(DetectorConfig(backbone="test_resnet", size=64), CLASSES, pretrained=False)


def test_torchvisions_detector_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(EncoderError, match=r"could not be downloaded.*not known.*detector: small"):
        torchvision_detector()


def test_the_backbone_begins_with_imagenet() -> None:
    detector = build_detector(DetectorConfig(backbone="efficientnet_lite0", size=64, width=8, hidden=8), CLASSES)
    grid = GridEncoder(GridConfig(size=64))
    pixels = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        last = detector.maps(detector.transform.normalise(pixels))[1]
        torch.testing.assert_close(last.flatten(2).transpose(1, 2), grid(pixels).vectors)


@pytest.fixture(scope="module")
def script(repository: Path) -> ModuleType:
    """Import ``scripts/train_detector.py``."""
    spec = importlib.util.spec_from_file_location("train_detector", repository / "scripts" / "train_detector.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_detector"] = module  # its dataclasses need the module in sys.modules
    spec.loader.exec_module(module)
    return module


def image_with_boxes(script: ModuleType) -> Any:
    return script.LabelledImage(
        path=Path("photo.png"),
        boxes=np.array(
            [[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 0.2, 0.2], [0.7, 0.7, 0.9, 1.0], [0.5, 0.0, 1.0, 0.5]], dtype=np.float32
        ),
        labels=np.array([2, 1, 0, -1]),
        listed=np.array([True, False]),
        complete=False,
    )


def test_boxes_follow_a_flip_and_a_crop(script: ModuleType) -> None:
    found = script.target(image_with_boxes(script), (0, 0, 1, 1), True, 100, 0.3)
    torch.testing.assert_close(found["boxes"], torch.tensor([[50.0, 20, 90, 60], [80, 0, 100, 20]]))
    torch.testing.assert_close(found["others"], torch.tensor([[10.0, 70, 30, 100]]))
    torch.testing.assert_close(found["ignored"], torch.tensor([[0.0, 0, 50, 50]]))
    assert found["labels"].tolist() == [2, 1] and found["listed"].tolist() == [True, False]
    assert found["trust"] == pytest.approx(0.3)
    cropped = script.target(image_with_boxes(script), (0.15, 0.1, 0.65, 0.6), False, 100, 0.3)
    torch.testing.assert_close(cropped["boxes"], torch.tensor([[0.0, 20, 70, 100]]), atol=1e-3, rtol=0)
    # of the second box an eighth is left, of the crowd a quarter
    torch.testing.assert_close(
        cropped["ignored"], torch.tensor([[0.0, 0, 10, 20], [70, 0, 100, 80]]), atol=1e-3, rtol=0
    )
    assert cropped["labels"].tolist() == [2] and len(cropped["others"]) == 0


def write_data(folder: Path) -> Path:
    """Write six images of red and green squares; green ones are not listed in the last two, though one is there."""
    (folder / "images").mkdir(parents=True)
    images, boxes = [], []
    for number in range(6):
        pixels = np.full((60, 80, 3), 90, dtype=np.uint8)
        label, x, y = number % 2, 10 + 5 * number, 4 * number
        pixels[y : y + 24, x : x + 30] = ((220, 20, 20), (20, 220, 20))[label]
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        image: dict[str, Any] = {"id": number, "file_name": f"{number}.png", "width": 80, "height": 60}
        if number >= 4:
            image["labelled_categories"] = [7]
        images.append(image)
        if number != 5:
            box = {"id": number + 1, "image_id": number, "category_id": (7, 9)[label], "bbox": [x, y, 30, 24]}
            boxes.append({**box, "area": 720, "iscrowd": 0})
    categories = [{"id": 7, "name": "red"}, {"id": 9, "name": "green"}]
    data = {"images": images, "annotations": boxes, "categories": categories}
    for split in ("train", "val"):
        (folder / f"instances_{split}.json").write_text(json.dumps(data))
    return folder


def test_average_precision_uses_only_images_that_list_the_class(script: ModuleType, tmp_path: Path) -> None:
    data = script.read(write_data(tmp_path), "val")
    classes = script.frequent(data, 2)
    assert classes == {"red": 7, "green": 9} and script.frequent(data, 3) == {"red": 7}
    results = [
        {**{k: box[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.5} for box in data["annotations"]
    ]
    wrong = {"image_id": 5, "category_id": 9, "bbox": [35, 20, 30, 24], "score": 0.9}  # unlisted there: perhaps right
    assert script.average_precision(data, [*results, wrong], classes) == {
        "red": (3, pytest.approx(1), pytest.approx(1)),
        "green": (2, 1.0, 1.0),
    }
    listed = {**wrong, "image_id": 0}
    scores = script.average_precision(data, [*results, listed], classes)
    assert scores["green"][1] == pytest.approx(2 / 3, abs=0.01) and scores["red"][1] == pytest.approx(1)
    assert script.average_precision(data, [], classes)["red"][1] == 0


def test_the_script_trains_resumes_and_ships(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(tmp_path / "data")

    def train(name: str) -> None:
        fixed = "--backbone test_efficientnet --random-weights --size 64 --batch 3 --epochs 2 --min-boxes 2 --frozen 2"
        folders = ["--data", str(data), "--output", str(tmp_path / name), "--assets", str(tmp_path / f"{name}-assets")]
        script.main([*folders, *fixed.split(), "--device", "cpu"])

    train("whole")
    step = script.Run.step

    def stopped(run: Any, *batch: Any) -> Any:
        if run.state.step == 3:  # in the middle of the second epoch
            run.save()
            raise KeyboardInterrupt
        return step(run, *batch)

    monkeypatch.setattr(script.Run, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train("parts")
    monkeypatch.undo()
    train("parts")
    assets = tmp_path / "parts-assets"
    assert (assets / "model.safetensors").read_bytes() == (tmp_path / "whole-assets" / "model.safetensors").read_bytes()
    assert load_detector(assets).classes == ("red", "green") and "mAP@0.5" in (assets / "README.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4] and all(
        math.isfinite(line["loss"]) for line in lines if "loss" in line
    )
