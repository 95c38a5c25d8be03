"""Faster R-CNN with a feature pyramid (Ren 2015, Lin 2017), for batches of square images of a fixed size.

Tensor letters: B images, S side of the image in pixels, P proposals of an image, K boxes of an image, C classes
without the background, D channels of the backbone's last map. Boxes are xyxy in pixels of the square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from captioner.data.transform import MAX_SIZE, Transform
from captioner.encoders.grid import map_shape
from captioner.errors import EncoderError
from captioner.settings import Settings

STRIDES = (8, 16, 32)


class DetectorConfig(Settings):
    """Settings of the small detector."""

    backbone: str = Field(
        "efficientnet_lite2", description="a backbone of the grid encoder with maps at strides 8, 16 and 32"
    )
    size: int = Field(384, gt=0, le=MAX_SIZE, multiple_of=32, description="S: side of the image in pixels")
    width: int = Field(96, gt=0, description="channels of the pyramid's maps")
    hidden: int = Field(512, gt=0, description="units of the box head's two layers")


class ToFloat32(nn.Module):
    """Converts the output of a module to at least 32 bits: bfloat16 rounds coordinates above 256 to even numbers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, value: Any) -> Any:
        return _to_float32(self.inner(value))


def _to_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, dict):
        return {name: _to_float32(inner) for name, inner in value.items()}
    return type(value)(_to_float32(inner) for inner in value)


class BackboneMaps(nn.Module):
    """A backbone that returns its last map at each of the strides 8, 16 and 32, named "0", "1" and "2".

    Raises:
        EncoderError: the backbone lacks one of them.
    """

    def __init__(self, trunk: nn.Sequential, size: int) -> None:
        super().__init__()
        self.trunk = trunk
        last: dict[int, tuple[int, int]] = {}
        for number in range(len(trunk)):
            channels, *sides = map_shape(trunk[: number + 1], size)
            last[size // sides[-1]] = (number, channels)
        if any(stride not in last for stride in STRIDES):
            raise EncoderError(
                f"the detector's backbone has maps at strides {sorted(last)} and not at {STRIDES}; "
                "use efficientnet_lite0"
            )
        self.selected, self.channels = zip(*(last[stride] for stride in STRIDES), strict=True)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of normalised images (B, 3, S, S), the finest first."""
        out: dict[str, Tensor] = {}
        for number, stage in enumerate(self.trunk):
            images = stage(images)
            if number in self.selected:
                out[str(len(out))] = images
        return out


class Proposals(NamedTuple):
    """The scored proposals of a batch.

    Attributes:
        pyramid: the maps for RoI pooling.
        last: (B, D, rows, columns) the backbone's last map.
        boxes: for each image (P, C, 4), every proposal refined for each class.
        scores: for each image (P, C) probabilities.
    """

    pyramid: dict[str, Tensor]
    last: Tensor
    boxes: list[Tensor]
    scores: list[Tensor]


class Detector(nn.Module):
    """A Faster R-CNN for batches of square images.

    Attributes:
        classes: C names.
        transform: turns an image into pixels.
        config: the small detector's settings; ``None`` for torchvision's.
    """

    body: nn.Module
    fpn: Any
    rpn: Any
    roi_heads: Any

    def __init__(
        self,
        body: nn.Module,
        fpn: nn.Module,
        rpn: nn.Module,
        roi_heads: nn.Module,
        *,
        classes: Sequence[str],
        transform: Transform,
        config: DetectorConfig | None = None,
    ) -> None:
        super().__init__()
        self.body, self.fpn, self.rpn, self.roi_heads = body, fpn, rpn, roi_heads
        self.classes, self.transform, self.config = tuple(classes), transform, config
        self.features: int = self.roi_heads.box_predictor.inner.cls_score.in_features
        self.channels: int = self.fpn.inner_blocks[-1][0].in_channels

    def train(self, mode: bool = True) -> Detector:
        """Set the mode, but keep the backbone in eval mode: its batch normalisation uses ImageNet's statistics."""
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Detect, or in training mode return the losses by name.

        Args:
            images: (B, 3, S, S) normalised.
            targets: in training, for each image ``boxes`` (K, 4) with ``labels`` (K,) from 1; ``others``, boxes of
                classes that are not learned; ``ignored``, regions without a loss; ``listed`` (C,) bool, the classes
                whose objects are all boxed; ``trust``, the weight of background anchors.

        Returns:
            For each image its ``boxes``, ``labels`` from 1, and ``scores``, the best first.
        """
        pyramid, _ = self.maps(images)
        batch = self._batch(images)
        proposals, losses = self.rpn(batch, pyramid, targets)
        found, more = self.roi_heads(pyramid, proposals, batch.image_sizes, targets)
        return {**losses, **more} if self.training else found

    def propose(self, images: Tensor) -> Proposals:
        """Propose and score regions of normalised images (B, 3, S, S); the whole image is always one of them."""
        pyramid, last = self.maps(images)
        batch = self._batch(images)
        proposals, _ = self.rpn(batch, pyramid)
        size = images.shape[-1]
        proposals = [torch.cat([boxes, boxes.new_tensor([[0, 0, size, size]])]) for boxes in proposals]
        logits, deltas = self.roi_heads.box_predictor(self.describe(pyramid, proposals, size))
        boxes = self.roi_heads.box_coder.decode(deltas, proposals)[:, 1:]
        low = boxes[..., :2].clamp(0, size - 1)
        high = torch.maximum(boxes[..., 2:].clamp(max=size), low + 1)  # at least a pixel wide and high
        boxes = torch.cat([low, high], dim=-1)
        counts = [len(proposal) for proposal in proposals]
        return Proposals(pyramid, last, list(boxes.split(counts)), list(logits.softmax(-1)[:, 1:].split(counts)))

    def maps(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the pyramid's maps and the backbone's last one (B, D, rows, columns)."""
        maps = self.body(images.contiguous(memory_format=torch.channels_last))
        return _to_float32(self.fpn(maps)), _to_float32(maps[next(reversed(maps))])

    def describe(self, pyramid: dict[str, Tensor], boxes: list[Tensor], size: int) -> Tensor:
        """Return the box head's vectors for the boxes of all images, image after image."""
        pooled = self.roi_heads.box_roi_pool(pyramid, boxes, [(size, size)] * len(boxes))
        vectors: Tensor = self.roi_heads.box_head(pooled)
        return vectors

    @staticmethod
    def _batch(images: Tensor) -> Any:
        return ImageList(images, [(images.shape[-2], images.shape[-1])] * len(images))
