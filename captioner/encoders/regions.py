"""A picture to the regions that a detector finds in it: bottom-up attention (Anderson et al. 2018, https://arxiv.org/abs/1707.07998).

Tensor letters: B images, S side of the picture in pixels, P proposals of an image, C classes, N regions of an image,
filled up, D features.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from captioner.backend import fast_dtype
from captioner.encoders.base import ENCODERS, Encoder, EncoderConfig
from captioner.errors import EncoderError
from captioner.memory import Memory

if TYPE_CHECKING:  # torchvision's detection takes a while to import
    from captioner.encoders.detector import Detector, Look

_RANDOM_CLASSES = ("person", "dog", "cat")


class RegionConfig(EncoderConfig):
    """Settings of the region encoder."""

    detector: Literal["small", "torchvision"] = Field(
        "small", description="the one that comes with captioner, or torchvision's ResNet-50 of COCO"
    )
    weights: str = Field(
        "pretrained",
        description="pretrained, random (for tests), or the folder of a small detector that was trained elsewhere",
    )
    size: int = Field(
        0,
        ge=0,
        multiple_of=32,
        description="side of the picture in pixels; 0 is what the detector was trained at (torchvision's: 640)",
    )
    regions: int = Field(36, ge=10, le=100, description="N: the most regions of a picture")
    min_regions: int = Field(10, ge=1, le=100, description="the fewest, however low their scores")
    threshold: float = Field(0.05, ge=0, lt=1, description="probability of its class from which on a region is taken")
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
    """The regions of one picture, the best first.

    Attributes:
        boxes: (n, 4) relative xyxy.
        labels: (n,) places in the encoder's ``classes``.
        scores: (n,) probabilities; zero for one that was suppressed and is there only to make up the number.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


@ENCODERS.register("regions")
class RegionEncoder(Encoder):
    """Faster R-CNN's regions of a picture, one vector each (section 3.1 of the paper).

    Regions are chosen as the paper does: of each class, boxes that overlap a better one are suppressed; then the
    regions whose best remaining class is above a threshold are taken, whatever their class, but no fewer and no more
    than set. A region's vector describes the box it is reported with.

    Departures: the detector knows few classes and no attributes, and a small backbone, so that by default the mean of
    the backbone's last map over the region, which carries ImageNet's 1,000 classes, stands beside the box head's
    vector; the threshold is lower than the paper's 0.2, for few classes; boxes are the refined ones and not the
    proposals; the whole picture is always among the proposals, so that no picture is without a region.

    The detector stays in eval mode.

    Args:
        config: the settings.
        detector: its detector; ``None`` builds it.

    Attributes:
        classes: names of the detector's classes.

    Raises:
        EncoderError: the detector's weights are missing or damaged.
    """

    Config: ClassVar[type[EncoderConfig]] = RegionConfig
    grid = None

    def __init__(self, config: RegionConfig, detector: Detector | None = None) -> None:
        super().__init__()
        self.config: RegionConfig = config
        self.detector = (detector or _build(config)).eval()
        self.transform = self.detector.transform
        self.classes: tuple[str, ...] = self.detector.classes
        parts = {"head": self.detector.features, "trunk": self.detector.channels}
        self.features = sum(parts.values()) if config.features == "both" else parts[config.features]
        self._precision = torch.float32

    def train(self, mode: bool = True) -> RegionEncoder:
        """Set training mode for the module but leave the detector in eval mode."""
        super().train(mode)
        self.detector.eval()
        return self

    def fast(self, device: torch.device) -> RegionEncoder:
        """Return the encoder at the device's fast precision, see :meth:`Encoder.fast`; boxes and scores keep 32 bits."""
        dtype = fast_dtype(device)
        if dtype == torch.float32:
            return self.to(device)
        rounded = copy.deepcopy(self).to(device)
        rounded._precision, rounded._fingerprint = dtype, self.fingerprint()
        return rounded

    def forward(self, pixels: Tensor) -> Memory:
        """Encode pixels (B, 3, S, S) uint8 to a memory of B x N x D with boxes, the best regions first, then padding that is masked and zero."""
        with self._autocast():
            look, found = self._find(pixels)
            boxes = [one.boxes for one in found]
            described = self._describe(look, boxes)
        shape = (len(boxes), self.config.regions)
        counts = torch.tensor([len(one) for one in boxes], device=described.device)
        mask = torch.arange(shape[1], device=described.device) < counts.unsqueeze(1)
        vectors = described.new_zeros(*shape, self.features)
        vectors[mask] = described
        places = boxes[0].new_zeros(*shape, 4)
        places[mask] = torch.cat(boxes) / self.transform.size
        return region_memory(vectors, places, mask)

    def detect(self, pixels: Tensor) -> list[Detections]:
        """Tell of what class the regions are that :meth:`forward` finds in pixels (B, 3, S, S), in the same order."""
        with torch.no_grad(), self._autocast():
            _, found = self._find(pixels)
        return [one._replace(boxes=one.boxes / self.transform.size) for one in found]

    def _autocast(self) -> torch.autocast:
        rounds = self._precision != torch.float32
        return torch.autocast(next(self.parameters()).device.type, self._precision if rounds else None, enabled=rounds)

    def _find(self, pixels: Tensor) -> tuple[Look, list[Detections]]:
        """Look at the pictures and choose regions, their boxes in pixels."""
        weight = next(self.parameters())
        look = self.detector.look(self.transform.normalise(pixels.to(weight.device)).to(weight.dtype))
        config = self.config
        found = [
            select(
                boxes,
                scores,
                overlap=config.nms,
                threshold=config.threshold,
                least=config.min_regions,
                most=config.regions,
            )
            for boxes, scores in zip(look.boxes, look.scores, strict=True)
        ]
        return look, found

    def _describe(self, look: Look, boxes: list[Tensor]) -> Tensor:
        """Return the vectors of all images' regions, one image after the other (sum of n, D)."""
        from torchvision.ops import roi_align

        parts = []
        if self.config.features != "trunk":
            parts.append(self.detector.describe(look.pyramid, boxes, self.transform.size).to(look.last.dtype))
        if self.config.features != "head":
            scale = look.last.shape[-1] / self.transform.size
            parts.append(roi_align(look.last, boxes, output_size=1, spatial_scale=scale, aligned=True).flatten(1))
        return torch.cat(parts, dim=1)


def select(boxes: Tensor, scores: Tensor, *, overlap: float, threshold: float, least: int, most: int) -> Detections:
    """Choose regions of one picture.

    Args:
        boxes: (P, C, 4) every proposal as each class would have it.
        scores: (P, C).
        overlap: IoU above which the weaker of two boxes of a class is suppressed.
        threshold: a proposal whose best class that was not suppressed scores higher is taken.
        least: how many are taken anyway, if there are so many; those suppressed in every class come last.
        most: how many are taken at most.
    """
    from torchvision.ops import batched_nms

    classes = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    kept = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[batched_nms(boxes.reshape(-1, 4), scores.reshape(-1), classes.reshape(-1), overlap)] = True
    best, label = torch.where(kept.view_as(scores), scores, scores - 1).max(
        dim=1
    )  # below all others, but in their order
    taken = max(least, min(most, int((best > threshold).sum())))
    order = best.argsort(descending=True, stable=True)[:taken]
    label = label[order]
    return Detections(boxes[order, label], label, best[order].clamp(min=0))


def region_memory(vectors: Tensor, boxes: Tensor, mask: Tensor) -> Memory:
    """Make a memory of regions' vectors (B, N, D) and relative boxes (B, N, 4), pooled by the mean of the real ones, mask (B, N)."""
    real = mask.unsqueeze(-1).to(vectors.dtype)
    return Memory(vectors=vectors, pooled=(vectors * real).sum(1) / real.sum(1).clamp(min=1), mask=mask, boxes=boxes)


def _build(config: RegionConfig) -> Detector:
    from captioner.encoders.detector import (
        DetectorConfig,
        build_detector,
        load_detector,
        shipped_detector,
        torchvision_detector,
    )

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
