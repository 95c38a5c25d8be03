"""Detectors that propose regions: a small Faster R-CNN with a feature pyramid (Ren 2015, Lin 2017) that comes with captioner, and torchvision's large one.

Pictures come as one square batch of a fixed size, so that a batch is one pass and none is resized. Not every picture
has all its things boxed: the small detector's losses know which classes are (:class:`ListedRoIHeads`,
:class:`ListedProposals`).

Tensor letters: B images, S side of the picture in pixels, P proposals of an image, M sampled ones of a batch, A
anchors, K boxes of an image, C classes without the background, D channels of the backbone's last map. Boxes are xyxy in
pixels of the square.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad, smooth_l1_loss
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from captioner.assets import CONFIG, DETECTOR, shipped
from captioner.data.transform import Transform
from captioner.encoders.grid import GridConfig, GridEncoder
from captioner.errors import ConfigError, EncoderError, first_line
from captioner.settings import Settings, validate

FORMAT = 1  # of the folders it is kept in
WEIGHTS = "model.safetensors"
STRIDES = (8, 16, 32)
# Sides of the anchors on each map, in shares of the picture's: a detector used at another size looks for the same
# things. A map's anchors must be wider than the distance they stand apart, or things lie between them and none fits:
# that holds down to pictures of some 200 pixels.
ANCHORS = ((0.04, 0.055, 0.075), (0.1, 0.13, 0.17), (0.22, 0.3, 0.4), (0.53, 0.71, 0.95))
RATIOS = (0.6, 1.3, 2.6)  # height to width: photos are mostly wider than high, and squashing makes what is in them slim


class DetectorConfig(Settings):
    """Settings of the small detector."""

    backbone: str = Field(
        "efficientnet_lite2", description="a backbone of the grid encoder with maps at strides 8, 16 and 32"
    )
    size: int = Field(384, gt=0, multiple_of=32, description="S: side of the picture in pixels")
    width: int = Field(96, gt=0, description="channels of the pyramid's maps")
    hidden: int = Field(512, gt=0, description="units of the box head's two layers")


class Wide(nn.Module):
    """Gives what a module gives with 32 bits at least: under autocast it would be rounded, and bfloat16 cannot tell one pixel of 320 from the next."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, value: Any) -> Any:
        """Call the module."""
        return _wide(self.inner(value))


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, dict):
        return {name: _wide(inner) for name, inner in value.items()}
    return type(value)(_wide(inner) for inner in value)


class Maps(nn.Module):
    """A backbone that gives its last map at each of the strides 8, 16 and 32, by the names "0", "1" and "2".

    Raises:
        EncoderError: it does not have them.
    """

    def __init__(self, trunk: nn.Sequential, size: int) -> None:
        super().__init__()
        self.trunk = trunk
        last: dict[int, tuple[int, int]] = {}
        maps = torch.empty(1, 3, size, size, device="meta")
        for number, stage in enumerate(copy.deepcopy(trunk).to("meta")):
            maps = stage(maps)
            last[size // maps.shape[-1]] = (number, maps.shape[1])
        if any(stride not in last for stride in STRIDES):
            raise EncoderError(
                f"the detector's backbone has maps at strides {sorted(last)} and not at {STRIDES}; use efficientnet_lite0"
            )
        self.taken, self.channels = zip(*(last[stride] for stride in STRIDES), strict=True)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Make maps of normalised images (B, 3, S, S), the finest first."""
        out: dict[str, Tensor] = {}
        for number, stage in enumerate(self.trunk):
            images = stage(images)
            if number in self.taken:
                out[str(len(out))] = images
        return out


def covered(boxes: Tensor, regions: Tensor) -> Tensor:
    """Tell of boxes (P, 4) which ones lie by half or more in one of the regions (J, 4); returns (P,) bool."""
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return ((high - low).clamp(min=0).prod(-1) >= 0.5 * area.unsqueeze(1)).any(1)


class ListedProposals(RegionProposalNetwork):  # type: ignore[misc]
    """A region proposal network that does not believe all it is told.

    An anchor without a box is background only if all things in the picture are boxed: where they are not, it counts
    ``trust`` and not one. Anchors in ignored regions count nothing. Boxes of classes that are too rare to be learned
    (``others``) are things like any other.
    """

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Give each anchor its label, 1, 0 or -1 for none, and its box; see :meth:`Detector.forward` for the targets."""
        things = [{"boxes": torch.cat([target["boxes"], target["others"]])} for target in targets]
        labels, matched = super().assign_targets_to_anchors(anchors, things)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & covered(anchor, target["ignored"])] = -1
        self._trust = [target["trust"] for target in targets]  # compute_loss is not given the targets
        return labels, matched

    def compute_loss(
        self, objectness: Tensor, deltas: Tensor, labels: list[Tensor], goals: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of the objectness (B * A, 1) and of the boxes (B * A, 4)."""
        positive, negative = self.fg_bg_sampler(labels)
        found = torch.cat(positive).bool()
        weight = torch.cat([yes + no * trust for yes, no, trust in zip(positive, negative, self._trust, strict=True)])
        drawn = weight > 0
        truth, goal = torch.cat(labels), torch.cat(goals)
        errors = binary_cross_entropy_with_logits(
            objectness.flatten()[drawn], truth[drawn], weight=weight[drawn], reduction="sum"
        )
        boxes = smooth_l1_loss(deltas[found], goal[found], beta=1 / 9, reduction="sum")
        return errors / weight.sum(), boxes / drawn.sum()


class ListedRoIHeads(RoIHeads):  # type: ignore[misc]
    """Box heads that learn of a proposal without a box no more than is known: that it shows none of the classes that are listed for its picture.

    Its softmax therefore runs over the background and the listed classes alone, and the others' logits are left as they
    are. A proposal with a box is of that box's class and of no other, listed or not. Proposals in ignored regions are
    left out.
    """

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections in eval mode, losses in training; see :meth:`Detector.forward`."""
        if not self.training or targets is None:
            return super().forward(features, proposals, image_shapes, targets)
        proposals = [
            boxes[~covered(boxes, target["ignored"])] for boxes, target in zip(proposals, targets, strict=True)
        ]
        proposals, _, labels, goals = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        listed = torch.cat(
            [target["listed"].expand(len(label), -1) for label, target in zip(labels, targets, strict=True)]
        )
        logits = hide_unlisted(logits, torch.cat(labels), listed)
        classes, boxes = fastrcnn_loss(logits, deltas, labels, goals)
        return [], {"loss_classifier": classes, "loss_box_reg": boxes}


def hide_unlisted(logits: Tensor, labels: Tensor, listed: Tensor) -> Tensor:
    """Take the unlisted classes out of the softmax of background proposals.

    Args:
        logits: (M, 1 + C), the background first.
        labels: (M,) 0 for background.
        listed: (M, C) bool, of each proposal's picture.
    """
    hidden = pad(~listed & (labels == 0).unsqueeze(1), (1, 0), value=False)
    return logits.masked_fill(hidden, -torch.inf)


class Look(NamedTuple):
    """What a detector sees before it decides.

    Attributes:
        pyramid: the maps that boxes are cut out of.
        last: (B, D, rows, columns) the backbone's last map.
        boxes: for each image (P, C, 4), every proposal as each class would have it.
        scores: for each image (P, C) probabilities.
    """

    pyramid: dict[str, Tensor]
    last: Tensor
    boxes: list[Tensor]
    scores: list[Tensor]


class Detector(nn.Module):
    """A Faster R-CNN's parts, called on one batch of square pictures.

    Attributes:
        classes: C names.
        transform: how a picture becomes pixels.
        config: the small detector's settings; ``None`` for another.
    """

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
        self.features: int = roi_heads.box_predictor.inner.cls_score.in_features  # type: ignore[union-attr, assignment]
        self.channels: int = fpn.inner_blocks[-1][0].in_channels  # type: ignore[index, union-attr]

    def train(self, mode: bool = True) -> Detector:
        """Set the mode of all but the backbone, whose batch normalisation always uses the statistics of its ImageNet training."""
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Detect, or in training mode return the losses by name.

        Args:
            images: (B, 3, S, S) normalised.
            targets: in training, for each image ``boxes`` (K, 4) with ``labels`` (K,) from 1; ``others``, boxes of
                classes that are not learned; ``ignored``, regions that nothing is to be learned of; ``listed`` (C,)
                bool, the classes whose things are all boxed; ``trust``, a number, how sure it is that what has no box
                is no thing.

        Returns:
            For each image its ``boxes``, ``labels`` from 1, and ``scores``, the best first.
        """
        pyramid, _ = self.maps(images)
        batch = self._batch(images)
        proposals, losses = self.rpn(batch, pyramid, targets)
        found, more = self.roi_heads(pyramid, proposals, batch.image_sizes, targets)
        return {**losses, **more} if self.training else found

    def look(self, images: Tensor) -> Look:
        """Propose and score regions of normalised images (B, 3, S, S), without choosing among them. The whole picture is always one of them."""
        pyramid, last = self.maps(images)
        batch = self._batch(images)
        proposals, _ = self.rpn(batch, pyramid)
        size = images.shape[-1]
        proposals = [torch.cat([boxes, boxes.new_tensor([[0, 0, size, size]])]) for boxes in proposals]
        logits, deltas = self.roi_heads.box_predictor(self.describe(pyramid, proposals, size))  # type: ignore[operator]
        boxes = self.roi_heads.box_coder.decode(deltas, proposals)[:, 1:]  # type: ignore[operator, union-attr]
        low = boxes[..., :2].clamp(0, size - 1)
        boxes = torch.cat(
            [low, torch.maximum(boxes[..., 2:].clamp(max=size), low + 1)], dim=-1
        )  # a pixel wide and high at least
        counts = [len(proposal) for proposal in proposals]
        return Look(pyramid, last, list(boxes.split(counts)), list(logits.softmax(-1)[:, 1:].split(counts)))

    def maps(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the pyramid's maps and the backbone's last one (B, D, rows, columns)."""
        maps = self.body(images.contiguous(memory_format=torch.channels_last))
        return _wide(self.fpn(maps)), _wide(maps[next(reversed(maps))])

    def describe(self, pyramid: dict[str, Tensor], boxes: list[Tensor], size: int) -> Tensor:
        """Return the box head's vectors of all images' boxes, one image after the other."""
        pooled = self.roi_heads.box_roi_pool(pyramid, boxes, [(size, size)] * len(boxes))  # type: ignore[operator]
        return self.roi_heads.box_head(pooled)  # type: ignore[operator]

    @staticmethod
    def _batch(images: Tensor) -> Any:
        return ImageList(images, [(images.shape[-2], images.shape[-1])] * len(images))


def build_detector(config: DetectorConfig, classes: Sequence[str], *, pretrained: bool = True) -> Detector:
    """Build the small detector with new weights, on a backbone with those of ImageNet or new ones.

    Choices made for a CPU: no map finer than stride 8; one sample a bin of RoIAlign (He 2017 found their number to
    matter little), since RoIAlign would otherwise cost more than the backbone; at most 512 proposals of a map before
    suppression and 64 sampled regions in training.

    Raises:
        EncoderError: the backbone does not exist or is unsuited.
    """
    grid = GridEncoder(
        GridConfig(backbone=config.backbone, size=config.size, weights="pretrained" if pretrained else "random")
    )
    body = Maps(grid.trunk, config.size)
    anchors = AnchorGenerator(
        tuple(tuple(round(share * config.size) for share in shares) for shares in ANCHORS), (RATIOS,) * len(ANCHORS)
    )
    rpn = ListedProposals(
        anchors,
        Wide(RPNHead(config.width, anchors.num_anchors_per_location()[0])),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 512, "testing": 300},
        post_nms_top_n={"training": 512, "testing": 150},
        nms_thresh=0.7,
    )
    # Lin 2017, equation (1), with a scale that spreads the boxes of a small picture over all three maps.
    pool = MultiScaleRoIAlign(
        ["0", "1", "2"], output_size=7, sampling_ratio=1, canonical_scale=round(0.35 * config.size), canonical_level=4
    )
    heads = ListedRoIHeads(
        pool,
        TwoMLPHead(config.width * 7 * 7, config.hidden),
        Wide(FastRCNNPredictor(config.hidden, 1 + len(classes))),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=64,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.01,
        nms_thresh=0.5,
        detections_per_img=100,
    )
    fpn = FeaturePyramidNetwork(list(body.channels), config.width, LastLevelMaxPool())
    return Detector(body, fpn, rpn, heads, classes=classes, transform=grid.transform, config=config)


def torchvision_detector(size: int = 640, *, pretrained: bool = True) -> Detector:
    """Build torchvision's ``fasterrcnn_resnet50_fpn_v2``, with its COCO weights or new ones; it takes squashed pictures of ``size`` pixels.

    Raises:
        EncoderError: the weights could not be downloaded.
    """
    weights = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    try:
        model = fasterrcnn_resnet50_fpn_v2(
            weights=weights if pretrained else None,
            weights_backbone=None,
            progress=False,
            rpn_pre_nms_top_n_test=300,
            rpn_post_nms_top_n_test=300,
        )
    except OSError as error:
        raise EncoderError(
            f"the weights of torchvision's fasterrcnn_resnet50_fpn_v2 could not be downloaded ({first_line(error)}). Connect to the network once, copy "
            f"them into the download cache of torchvision, or use the detector that comes with captioner: detector: small"
        ) from error
    model.rpn.head, model.roi_heads.box_predictor = Wide(model.rpn.head), Wide(model.roi_heads.box_predictor)
    transform = Transform(size=size, mean=tuple(model.transform.image_mean), std=tuple(model.transform.image_std))
    return Detector(
        model.backbone.body,
        model.backbone.fpn,
        model.rpn,
        model.roi_heads,
        classes=weights.meta["categories"][1:],
        transform=transform,
    )


def shipped_detector() -> Path:
    """Return the folder of the detector that comes with the program.

    Raises:
        EncoderError: this copy has none.
    """
    for folder in shipped(DETECTOR).values():
        return folder
    raise EncoderError(
        "this copy of captioner comes without the small detector (assets/detector); reinstall captioner, make the detector with "
        "scripts/train_detector.py, or use torchvision's: detector: torchvision"
    )


def parts(detector: Detector, *, half: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a folder of :func:`captioner.checkpoint.write_folder` must hold of a small detector: its tensors, and the fields of its config.

    Args:
        detector: one of :func:`build_detector`.
        half: give matrices as float16; vectors, among them the variances of batch normalisation, which may not fit into
            it, stay as they are.
    """
    assert detector.config is not None
    tensors = {
        name: tensor.half() if half and tensor.dim() > 1 else tensor for name, tensor in detector.state_dict().items()
    }
    return tensors, {"model": detector.config.model_dump(mode="json"), "classes": list(detector.classes)}


def load_detector(folder: str | Path, *, size: int = 0) -> Detector:
    """Read a folder that holds the :func:`parts` of a detector, in eval mode and float32.

    Args:
        folder: where.
        size: side of the pictures to use it on; 0 is the size it was trained at.

    Raises:
        EncoderError: it is missing, damaged, or newer than this program.
    """
    folder = Path(folder)
    try:
        value = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if value.get("kind") != DETECTOR:
            raise EncoderError(
                f"{folder}: is not the folder of a detector; give one that scripts/train_detector.py wrote"
            )
        if value["format"] > FORMAT:
            raise EncoderError(
                f"{folder}: format {value['format']} of this detector is newer than this program reads ({FORMAT}); upgrade captioner"
            )
        config = validate(DetectorConfig, value["model"], where=f"{folder / CONFIG}")
        detector = build_detector(
            config.model_copy(update={"size": size or config.size}), value["classes"], pretrained=False
        )
        detector.load_state_dict(load_file(folder / WEIGHTS))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
        ConfigError,
    ) as error:
        raise EncoderError(
            f"{folder}: not a readable detector ({first_line(error)}); copy the whole folder again, or make it again"
        ) from None
    return detector.eval()
