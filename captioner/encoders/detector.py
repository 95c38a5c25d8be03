"""Building, saving and loading the detectors of regions.

The small detector, a Faster R-CNN with a feature pyramid (Ren 2015, Lin 2017), comes with captioner; its losses allow
for images in which some objects have no box (:mod:`captioner.encoders.partial_labels`). The large one is torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from captioner.data.transform import Transform
from captioner.encoders.faster_rcnn import BackboneMaps, Detector, DetectorConfig, ToFloat32
from captioner.encoders.grid import GridConfig, GridEncoder, torchvision_weights
from captioner.encoders.partial_labels import PartialLabelRoIHeads, PartialLabelRPN
from captioner.errors import CheckpointError, ConfigError, EncoderError, first_line
from captioner.settings import validate
from captioner.store import CONFIG, COPY, DETECTOR, WEIGHTS, read_whole, shipped
from captioner.store.weights import read_weights, sized

# Sides of the anchors on each map, relative to the side of the image. Anchors must be wider than their distance, as
# objects between two anchors would match neither; they are, down to images of some 200 pixels.
ANCHORS = ((0.04, 0.055, 0.075), (0.1, 0.13, 0.17), (0.22, 0.3, 0.4), (0.53, 0.71, 0.95))
RATIOS = (0.6, 1.3, 2.6)  # height to width: most images are wider than high, so squashing makes objects narrow


def build_detector(config: DetectorConfig, classes: Sequence[str], *, pretrained: bool = True) -> Detector:
    """Build the small detector with new weights, on a backbone with or without ImageNet weights.

    Choices made for CPUs: no map finer than stride 8; one sample per bin of RoIAlign, which would otherwise cost more
    than the backbone (He 2017 found the number to matter little); at most 512 proposals per map before suppression, and
    64 sampled regions in training.

    Raises:
        EncoderError: the backbone does not exist or has no maps at the strides.
    """
    grid = GridEncoder(
        GridConfig(backbone=config.backbone, size=config.size, weights="pretrained" if pretrained else "random")
    )
    body = BackboneMaps(grid.trunk, config.size)
    anchors = AnchorGenerator(
        tuple(tuple(round(share * config.size) for share in shares) for shares in ANCHORS), (RATIOS,) * len(ANCHORS)
    )
    rpn = PartialLabelRPN(
        anchors,
        ToFloat32(RPNHead(config.width, anchors.num_anchors_per_location()[0])),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 512, "testing": 300},
        post_nms_top_n={"training": 512, "testing": 150},
        nms_thresh=0.7,
    )
    # Lin 2017, equation (1), scaled to spread the boxes of a small image over all three maps.
    pool = MultiScaleRoIAlign(
        ["0", "1", "2"], output_size=7, sampling_ratio=1, canonical_scale=round(0.35 * config.size), canonical_level=4
    )
    heads = PartialLabelRoIHeads(
        pool,
        TwoMLPHead(config.width * 7 * 7, config.hidden),
        ToFloat32(FastRCNNPredictor(config.hidden, 1 + len(classes))),
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
    """Build torchvision's ``fasterrcnn_resnet50_fpn_v2`` for images squashed to ``size`` pixels.

    Raises:
        EncoderError: the COCO weights could not be downloaded.
    """
    weights = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    try:
        model = fasterrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, rpn_pre_nms_top_n_test=300, rpn_post_nms_top_n_test=300
        )
        if pretrained:
            model.load_state_dict(torchvision_weights("fasterrcnn_resnet50_fpn_v2", weights))
    except OSError as error:
        raise EncoderError(
            f"the weights of torchvision's fasterrcnn_resnet50_fpn_v2 could not be downloaded ({first_line(error)}). "
            "Connect to the network once, copy them into the download cache of torchvision, or use the detector that "
            "comes with captioner: detector: small"
        ) from error
    model.rpn.head, model.roi_heads.box_predictor = ToFloat32(model.rpn.head), ToFloat32(model.roi_heads.box_predictor)
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
    """Return the folder of the shipped detector.

    Raises:
        EncoderError: it is missing.
    """
    for folder in shipped(DETECTOR).values():
        return folder
    raise EncoderError(
        "this copy of captioner comes without the small detector (assets/detector); reinstall captioner, make the "
        "detector with scripts/train_detector.py, or use torchvision's: detector: torchvision"
    )


def parts(detector: Detector, *, half: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a small detector's tensors and config fields, for :func:`captioner.store.weights.write_folder`.

    Args:
        detector: one of :func:`build_detector`.
        half: convert matrices to float16, but not vectors: variances of batch normalisation may exceed its range.
    """
    assert detector.config is not None
    tensors = {
        name: tensor.half() if half and tensor.dim() > 1 else tensor for name, tensor in detector.state_dict().items()
    }
    return tensors, {"model": detector.config.model_dump(mode="json"), "classes": list(detector.classes)}


def load_detector(folder: str | Path, *, size: int = 0) -> Detector:
    """Read a folder that holds the :func:`parts` of a detector, in eval mode and float32.

    Args:
        folder: its path.
        size: side of the images in pixels; 0 is the size it was trained at.

    Raises:
        EncoderError: it is missing, damaged, or newer than this program.
    """
    folder = Path(folder)
    try:
        value = read_whole(folder, DETECTOR)
        classes = value["classes"]
        if not all(isinstance(name, str) for name in classes):
            raise CheckpointError(f"{folder / CONFIG}: classes: are not names")
        weights = read_weights(folder / WEIGHTS)
        config = validate(DetectorConfig, value["model"], where=f"{folder / CONFIG}")
        with sized(weights, folder / CONFIG):
            detector = build_detector(
                config.model_copy(update={"size": size or config.size}), classes, pretrained=False
            )
        try:
            detector.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"{folder / WEIGHTS}: does not fit {CONFIG}; {COPY}") from error
    except (CheckpointError, ConfigError) as error:
        raise EncoderError(f"{folder}: not a readable detector: {first_line(error)}") from None
    return detector.eval()
