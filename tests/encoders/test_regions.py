"""The region encoder: the choice of regions, their vectors, and images alone and in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from captioner.encoders.detector import build_detector, torchvision_detector
from captioner.encoders.faster_rcnn import Detector, DetectorConfig
from captioner.encoders.regions import RegionConfig, RegionEncoder, region_memory, select
from captioner.errors import EncoderError
from tests.encoders.test_detector import save

SIZE = 96


def detector(seed: int = 0) -> Detector:
    """Build a small detector of random weights whose scores differ widely."""
    torch.manual_seed(seed)
    made = build_detector(
        DetectorConfig(backbone="test_efficientnet", size=SIZE, width=16, hidden=24),
        ("person", "dog", "cat"),
        pretrained=False,
    )
    with torch.no_grad():
        for weight in (*made.rpn.parameters(), *made.roi_heads.parameters()):
            weight.mul_(5).add_(0.05 * torch.randn_like(weight))
    return made.eval()


def encoder(**settings: Any) -> RegionEncoder:
    """Build a region encoder in float64, so that rounding does not change the order of scores."""
    return RegionEncoder(RegionConfig(**{"regions": 20, "threshold": 0.5, **settings}), detector()).double().eval()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Four images; the second one plain grey."""
    random = torch.Generator().manual_seed(3)
    coarse = torch.randint(256, (4, 3, 6, 6), generator=random, dtype=torch.uint8)
    images = coarse.repeat_interleave(16, 2).repeat_interleave(16, 3)
    images[1] = 128
    return images


def overlap(a: list[float], b: list[float]) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def naive(boxes: Tensor, scores: Tensor, most_overlap: float) -> list[tuple[float, int, int]]:
    """Suppress boxes class by class in plain loops.

    Return (score, proposal, class) of each proposal that remains for some class, the best first.
    """
    left: dict[int, tuple[float, int]] = {}
    for c in range(scores.shape[1]):
        kept: list[int] = []
        for p in scores[:, c].argsort(descending=True).tolist():
            if all(overlap(boxes[p, c].tolist(), boxes[k, c].tolist()) <= most_overlap for k in kept):
                kept.append(p)
        for p in kept:
            left[p] = max(left.get(p, (-1.0, 0)), (scores[p, c].item(), c))
    return sorted(((score, p, c) for p, (score, c) in left.items()), reverse=True)


@pytest.mark.parametrize(("threshold", "fewest", "most"), [(0.9, 3, 30), (0.5, 3, 30), (0.0, 3, 8), (0.99, 12, 30)])
def test_regions_are_chosen_as_by_plain_loops(threshold: float, fewest: int, most: int) -> None:
    torch.manual_seed(5)
    corner, scores = 60 * torch.rand(40, 3, 2, dtype=torch.float64), torch.rand(40, 3, dtype=torch.float64)
    boxes = torch.cat([corner, corner + 5 + 35 * torch.rand(40, 3, 2, dtype=torch.float64)], dim=-1)
    expected = naive(boxes, scores, 0.3)
    assert fewest < len(expected) < 40  # some proposals are suppressed in every class
    count = max(fewest, min(most, sum(score > threshold for score, _, _ in expected)))
    found = select(boxes, scores, overlap=0.3, threshold=threshold, min_regions=fewest, max_regions=most)
    assert found.scores.tolist() == [score for score, _, _ in expected[:count]]
    assert found.labels.tolist() == [c for _, _, c in expected[:count]]
    assert torch.equal(found.boxes, torch.stack([boxes[p, c] for _, p, c in expected[:count]]))


def test_suppressed_regions_fill_up_the_number_and_come_last() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 1, 10, 10], [40, 40, 50, 50]]).double().unsqueeze(1)
    scores = torch.tensor([[0.9], [0.7], [0.8], [0.2]], dtype=torch.float64)
    found = select(boxes, scores, overlap=0.5, threshold=0.5, min_regions=3, max_regions=10)
    assert found.scores.tolist() == [0.9, 0.2, 0.0] and torch.equal(found.boxes, boxes[[0, 3, 2], 0])
    assert (
        len(select(boxes, scores, overlap=0.5, threshold=0.5, min_regions=9, max_regions=10).boxes) == 4
    )  # there are no more


@torch.inference_mode()
def test_a_memory_of_regions(pixels: Tensor) -> None:
    fifteenth = torch.stack([one.scores[14] for one in encoder(threshold=0.0).detect(pixels)])
    made = encoder(threshold=fifteenth.mean().item())  # some images have more regions above it, some fewer
    memory, found = made(pixels), made.detect(pixels)
    assert memory.vectors.shape == (4, 20, made.features) and memory.grid is None is made.grid
    assert memory.mask is not None and memory.boxes is not None
    counts = memory.mask.sum(1)
    assert counts.min() >= 10 and len(set(counts.tolist())) > 1
    assert torch.equal(memory.mask, torch.arange(20) < counts.unsqueeze(1))  # padding comes last
    assert (memory.vectors[~memory.mask] == 0).all() and (memory.boxes[~memory.mask] == 0).all()
    assert memory.labels is not None and memory.scores is not None and (memory.labels[~memory.mask] == -1).all()
    assert torch.equal(memory.labels[memory.mask], torch.cat([one.labels for one in found]))
    assert torch.equal(memory.scores[memory.mask], torch.cat([one.scores for one in found]))
    real = memory.boxes[memory.mask]
    assert real.min() >= 0 and real.max() <= 1 and (real[:, 2:] > real[:, :2]).all()
    for row, one in enumerate(found):
        assert torch.equal(one.boxes, memory.boxes[row, : counts[row]])
        assert torch.equal(one.scores, one.scores.sort(descending=True).values)
        assert one.labels.max() < len(made.classes) == 3
        torch.testing.assert_close(memory.pooled[row], memory.vectors[row, : counts[row]].mean(0))


@torch.inference_mode()
def test_an_image_is_encoded_alone_as_in_a_batch(pixels: Tensor) -> None:
    made = encoder()
    together = made(pixels)
    for row in range(4):
        alone = made(pixels[row : row + 1])
        assert alone.mask is not None and together.mask is not None and torch.equal(alone.mask[0], together.mask[row])
        torch.testing.assert_close(alone.boxes[0], together.boxes[row])  # type: ignore[index]
        torch.testing.assert_close(alone.vectors[0], together.vectors[row])


@torch.inference_mode()
def test_a_regions_vector_is_the_heads_and_the_mean_of_the_last_map(pixels: Tensor) -> None:
    both, head, trunk = (encoder(features=features) for features in ("both", "head", "trunk"))
    memory = both(pixels[:1])
    assert (both.features, head.features, trunk.features) == (24 + 256, 24, 256)
    assert torch.equal(memory.vectors, torch.cat([head(pixels[:1]).vectors, trunk(pixels[:1]).vectors], dim=-1))
    images = both.transform.normalise(pixels[:1]).double()
    pyramid, last = both.detector.maps(images)
    assert memory.mask is not None and memory.boxes is not None
    boxes = memory.boxes[0][memory.mask[0]]
    torch.testing.assert_close(
        both.detector.describe(pyramid, [boxes * SIZE], SIZE), memory.vectors[0, : len(boxes), :24]
    )
    # The last map enlarged a hundredfold by interpolation, averaged under each box.
    fine = torch.nn.functional.interpolate(last, scale_factor=100, mode="bilinear", align_corners=False)[0]
    for number, (x0, y0, x1, y1) in enumerate((boxes * fine.shape[-1]).round().int().tolist()):
        expected = fine[:, y0:y1, x0:x1].mean((1, 2))
        found = memory.vectors[0, number, 24:]
        assert (found - expected).norm() < 0.25 * (expected - last.mean()).norm() + 0.05


@torch.inference_mode()
def test_the_limits_on_the_number_of_regions_hold(pixels: Tensor) -> None:
    for settings, expected in (
        ({"threshold": 0.0, "regions": 12}, 12),
        ({"threshold": 0.999999, "min_regions": 11}, 11),
    ):
        mask = encoder(**settings)(pixels).mask
        assert mask is not None and (mask.sum(1) == expected).all()
    with pytest.raises(ValidationError, match="must not be above regions"):
        RegionConfig(min_regions=30, regions=20)


def test_training_leaves_the_detector_in_eval_mode(pixels: Tensor) -> None:
    made = encoder()
    with torch.no_grad():
        before = made(pixels).vectors
        assert made.train().training and not any(module.training for module in made.detector.modules())
        assert torch.equal(made(pixels).vectors, before)


@torch.inference_mode()
def test_a_rounded_copy_keeps_boxes_and_the_fingerprint(pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder(threshold=0.0).float()
    monkeypatch.setattr("captioner.encoders.regions.fast_dtype", lambda _: torch.bfloat16)
    fast = made.fast(torch.device("cpu"))
    memory = fast(pixels)
    assert fast.fingerprint() == made.fingerprint() and memory.boxes is not None
    assert memory.boxes.dtype == memory.vectors.dtype == torch.float32
    assert (memory.boxes != memory.boxes.bfloat16().float()).any()  # not rounded on the way
    assert not torch.equal(memory.vectors, made(pixels).vectors)


@torch.inference_mode()
def test_the_fused_detector_finds_the_same_regions(pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder(threshold=0.0).float()
    monkeypatch.setattr("captioner.encoders.regions.fast_dtype", lambda _: torch.float32)
    fast, expected = made.fast(torch.device("cpu")), made(pixels)
    assert not any("FusedConvolution" in str(module) for module in made.modules()), "the original was changed"
    for _ in range(2):
        memory = fast(pixels)
        for name in ("vectors", "boxes", "scores"):
            torch.testing.assert_close(getattr(memory, name), getattr(expected, name), rtol=1e-3, atol=1e-3)


def test_a_fingerprint_is_of_settings_and_weights() -> None:
    made = [
        RegionEncoder(RegionConfig(), detector()),
        RegionEncoder(RegionConfig(), detector()),
        RegionEncoder(RegionConfig(nms=0.5), detector()),
    ]
    other = RegionEncoder(RegionConfig(), detector(seed=1))
    assert made[0].fingerprint() == made[1].fingerprint()
    assert len({made[0].fingerprint(), made[2].fingerprint(), other.fingerprint()}) == 3


@torch.inference_mode()
def test_an_encoder_of_a_detector_in_a_folder(tmp_path: Path, pixels: Tensor) -> None:
    folder = save(tmp_path / "mine", detector())
    made = RegionEncoder(RegionConfig(weights=str(folder)))
    assert made.classes == ("person", "dog", "cat") and made.transform.size == SIZE
    torch.testing.assert_close(made(pixels).vectors, RegionEncoder(RegionConfig(), detector())(pixels).vectors)
    with pytest.raises(EncoderError, match="not a readable detector"):
        RegionEncoder(RegionConfig(weights=str(tmp_path / "nowhere")))
    with pytest.raises(EncoderError, match="for detector: small"):
        RegionEncoder(RegionConfig(weights=str(folder), detector="torchvision"))


@torch.inference_mode()
def test_torchvisions_detector_gives_regions() -> None:
    large = torchvision_detector(64, pretrained=False)
    large.rpn._post_nms_top_n["testing"] = 12
    made = RegionEncoder(RegionConfig(detector="torchvision", regions=10), large)
    memory = made(torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8))
    assert memory.vectors.shape == (1, 10, 1024 + 2048) and made.classes[0] == "person"
    assert torch.isfinite(memory.vectors).all()


def test_pooling_counts_real_regions_alone() -> None:
    vectors = torch.arange(12.0).view(1, 3, 4)
    memory = region_memory(vectors, torch.zeros(1, 3, 4), torch.tensor([[2, -1, 0]]), torch.zeros(1, 3))
    assert torch.equal(memory.pooled, (vectors[:, 0] + vectors[:, 2]) / 2)
