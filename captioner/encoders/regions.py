"""The regions of a detector: bottom-up attention (Anderson et al. 2018, https://arxiv.org/abs/1707.07998).

Tensor letters: B images, S side of the image in pixels, P proposals of an image, C classes, N regions of an image
with padding, n without, D features.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from captioner.data.transform import MAX_SIZE
from captioner.encoders import efficientnet_lite
from captioner.encoders.encoder import ENCODERS, Encoder, EncoderConfig
from captioner.errors import EncoderError
from captioner.machine.backend import fast_dtype
from captioner.memory import Memory

if TYPE_CHECKING:  # torchvision's detection takes a while to import
    from captioner.encoders.faster_rcnn import Detector, Proposals

_RANDOM_CLASSES = ("person", "dog", "cat")


class RegionConfig(EncoderConfig):
    """Settings of the region encoder."""

    detector: Literal["small", "torchvision"] = Field(
        "small", description="small, which comes with captioner, or torchvision's ResNet-50 trained on COCO"
    )
    weights: str = Field(
        "pretrained",
        description="pretrained, random (for tests), or the folder of a small detector of your own",
    )
    size: int = Field(
        0,
        ge=0,
        le=MAX_SIZE,
        multiple_of=32,
        description="side of the image in pixels; 0 is the size the detector was trained at (torchvision's: 640)",
    )
    regions: int = Field(36, ge=10, le=100, description="N: most regions of an image")
    min_regions: int = Field(10, ge=1, le=100, description="fewest regions of an image, however low their scores")
    threshold: float = Field(0.05, ge=0, lt=1, description="a region is taken if its class is more probable than this")
    nms: float = Field(
        0.3, gt=0, le=1, description="overlap (IoU) above which the weaker of two boxes of a class is suppressed"
    )
    features: Literal["head", "trunk", "both"] = Field(
        "both", description="a region's vector: the box head's, the mean of the backbone's last map, or both"
    )

    @model_validator(mode="after")
    def _check(self) -> RegionConfig:
        if self.min_regions > self.regions:
            raise ValueError(f"min_regions ({self.min_regions}) must not be above regions ({self.regions})")
        return self


class Detections(NamedTuple):
    """The regions of one image, the best first.

    Attributes:
        boxes: (n, 4) relative xyxy.
        labels: (n,) indices into the encoder's ``classes``.
        scores: (n,) probabilities; zero for a suppressed region that is included only to reach the minimum number.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


@ENCODERS.register("regions")
class RegionEncoder(Encoder):
    """One vector per region of Faster R-CNN (Anderson 2018, section 3.1).

    Regions are selected as in the paper: non-maximum suppression within each class, then all regions whose best
    remaining class is above a threshold, within limits on their number. A region's vector describes its refined box.

    Departures: the detector has few classes, no attributes and a small backbone, so by default the mean of the
    backbone's last map over the region, which represents ImageNet's 1,000 classes, is concatenated to the box head's
    vector. With few classes the threshold is lower than the paper's 0.2. A vector describes the refined box, not the
    proposal, as figures and grounding show that box. The whole image is always a proposal, so every image has a region.

    The detector stays frozen, in eval mode.

    Args:
        config: the settings.
        detector: its detector; ``None`` builds it.

    Raises:
        EncoderError: the detector's weights are missing or damaged.
    """

    Config: ClassVar[type[EncoderConfig]] = RegionConfig
    grid = None
    _fused: bool = False

    def __init__(self, config: RegionConfig, detector: Detector | None = None) -> None:
        super().__init__()
        self.config: RegionConfig = config
        self.detector = (detector or _build(config)).eval()
        self.transform = self.detector.transform
        self.classes = self.detector.classes
        parts = {"head": self.detector.features, "trunk": self.detector.channels}
        self.features = sum(parts.values()) if config.features == "both" else parts[config.features]
        self._precision = torch.float32

    def train(self, mode: bool = True) -> RegionEncoder:
        """Set the mode, but keep the detector in eval mode."""
        super().train(mode)
        self.detector.eval()
        return self

    def fast(self, device: torch.device) -> RegionEncoder:
        """Return the encoder in the fast precision; boxes and scores keep 32 bits."""
        dtype, detector = fast_dtype(device), self.detector
        fuses = detector.config is not None and detector.config.backbone in efficientnet_lite.VARIANTS
        if dtype == torch.float32 and not fuses:
            return self.to(device)
        fast = copy.deepcopy(self).to(device)
        fast._precision, fast._fused, fast._fingerprint = dtype, fuses, self.fingerprint()
        if fuses:
            body: Any = fast.detector.body
            body.trunk = efficientnet_lite.fused(body.trunk, dtype).eval()
        return fast

    def forward(self, pixels: Tensor) -> Memory:
        """Encode pixels (B, 3, S, S) uint8 to a memory (B, N, D) with boxes: the best regions first, then padding."""
        with self._autocast():
            proposals, detections = self._find(pixels)
            found = [image.boxes for image in detections]
            features = self._describe(proposals, found)
        shape = (len(found), self.config.regions)
        counts = torch.tensor([len(boxes) for boxes in found], device=features.device)
        mask = torch.arange(shape[1], device=features.device) < counts.unsqueeze(1)
        vectors = features.new_zeros(*shape, self.features)
        vectors[mask] = features
        boxes = found[0].new_zeros(*shape, 4)
        boxes[mask] = torch.cat(found) / self.transform.size
        labels, scores = torch.full(shape, -1, device=mask.device), boxes.new_zeros(shape)
        labels[mask] = torch.cat([image.labels for image in detections])
        scores[mask] = torch.cat([image.scores for image in detections])
        return region_memory(vectors, boxes, labels, scores)

    def detect(self, pixels: Tensor) -> list[Detections]:
        """Return the regions of :meth:`forward` for pixels (B, 3, S, S), in the same order, with classes."""
        with torch.no_grad(), self._autocast():
            _, detections = self._find(pixels)
        return [image._replace(boxes=image.boxes / self.transform.size) for image in detections]

    def _autocast(self) -> torch.autocast:
        rounds = self._precision != torch.float32
        return torch.autocast(next(self.parameters()).device.type, self._precision if rounds else None, enabled=rounds)

    def _find(self, pixels: Tensor) -> tuple[Proposals, list[Detections]]:
        """Propose and select regions; boxes are in pixels."""
        weight = next(self.parameters())
        pixels = pixels.to(weight.device)
        if self._fused:
            images = efficientnet_lite.centred(pixels, self._precision)
        else:
            images = self.transform.normalise(pixels).to(weight.dtype)
        proposals = self.detector.propose(images)
        config = self.config
        detections = [
            select(
                boxes,
                scores,
                overlap=config.nms,
                threshold=config.threshold,
                min_regions=config.min_regions,
                max_regions=config.regions,
            )
            for boxes, scores in zip(proposals.boxes, proposals.scores, strict=True)
        ]
        return proposals, detections

    def _describe(self, proposals: Proposals, boxes: list[Tensor]) -> Tensor:
        """Return the vectors of the regions, image after image, (sum of n, D)."""
        from torchvision.ops import roi_align

        parts = []
        if self.config.features != "trunk":
            parts.append(self.detector.describe(proposals.pyramid, boxes, self.transform.size).to(proposals.last.dtype))
        if self.config.features != "head":
            scale = proposals.last.shape[-1] / self.transform.size
            parts.append(roi_align(proposals.last, boxes, output_size=1, spatial_scale=scale, aligned=True).flatten(1))
        return torch.cat(parts, dim=1)


def select(
    boxes: Tensor, scores: Tensor, *, overlap: float, threshold: float, min_regions: int, max_regions: int
) -> Detections:
    """Select regions of one image.

    Args:
        boxes: (P, C, 4) every proposal refined for each class.
        scores: (P, C).
        overlap: IoU above which the weaker of two boxes of a class is suppressed.
        threshold: a proposal is selected if its best class that is not suppressed scores higher.
        min_regions: the smallest number of regions, if there are as many proposals; those suppressed in every class
            come last.
        max_regions: the largest number of regions.
    """
    from torchvision.ops import batched_nms

    classes = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    kept = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[batched_nms(boxes.reshape(-1, 4), scores.reshape(-1), classes.reshape(-1), overlap)] = True
    # Suppressed proposals rank below all others, in their own order.
    best, label = torch.where(kept.view_as(scores), scores, scores - 1).max(dim=1)
    count = max(min_regions, min(max_regions, int((best > threshold).sum())))
    order = best.argsort(descending=True, stable=True)[:count]
    label = label[order]
    return Detections(boxes[order, label], label, best[order].clamp(min=0))


def region_memory(vectors: Tensor, boxes: Tensor, labels: Tensor, scores: Tensor) -> Memory:
    """Make a memory from regions, pooled by the mean of the real ones.

    Args:
        vectors: (B, N, D).
        boxes: (B, N, 4) relative.
        labels: (B, N), -1 where there is no region.
        scores: (B, N).
    """
    mask = labels >= 0
    real = mask.unsqueeze(-1).to(vectors.dtype)
    pooled = (vectors * real).sum(1) / real.sum(1).clamp(min=1)
    return Memory(vectors, pooled, mask=mask, boxes=boxes, labels=labels, scores=scores)


def _build(config: RegionConfig) -> Detector:
    from captioner.encoders.detector import build_detector, load_detector, shipped_detector, torchvision_detector
    from captioner.encoders.faster_rcnn import DetectorConfig

    if config.detector == "torchvision":
        if config.weights not in ("pretrained", "random"):
            raise EncoderError(f"weights: {config.weights!r} is a folder, and those are for detector: small")
        return torchvision_detector(config.size or 640, pretrained=config.weights == "pretrained")
    if config.weights == "random":
        small = DetectorConfig()
        return build_detector(
            small.model_copy(update={"size": config.size or small.size}), _RANDOM_CLASSES, pretrained=False
        )
    return load_detector(
        shipped_detector() if config.weights == "pretrained" else Path(config.weights), size=config.size
    )
