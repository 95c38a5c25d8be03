"""Losses of Faster R-CNN (Ren 2015) for partly labelled images, in which some objects have no box.

A class is *listed* for an image if all objects of the class in the image have boxes.

Tensor letters: B images, P proposals of an image, M sampled ones of a batch, A anchors, J regions, C classes without
the background. Boxes are xyxy in pixels. For the targets see :meth:`captioner.encoders.faster_rcnn.Detector.forward`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, pad, smooth_l1_loss
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork


def covered(boxes: Tensor, regions: Tensor) -> Tensor:
    """Return (P,) whether at least half of each box (P, 4) lies in one of the regions (J, 4)."""
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return ((high - low).clamp(min=0).prod(-1) >= 0.5 * area.unsqueeze(1)).any(1)


def hide_unlisted(logits: Tensor, labels: Tensor, listed: Tensor) -> Tensor:
    """Remove the unlisted classes from the softmax of background proposals.

    Args:
        logits: (M, 1 + C), the background first.
        labels: (M,) 0 for background.
        listed: (M, C) bool, of each proposal's image.
    """
    hidden = pad(~listed & (labels == 0).unsqueeze(1), (1, 0), value=False)
    return logits.masked_fill(hidden, -torch.inf)


class PartialLabelRPN(RegionProposalNetwork):  # type: ignore[misc]
    """A region proposal network for images in which some objects have no box.

    The loss of an anchor without a box is weighted by ``trust``, which is one only if all objects of the image have
    boxes. Anchors in ignored regions have no loss. Boxes of classes too rare to be learned (``others``) are positives.
    """

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return for each anchor its label (1, 0, or -1 for no loss) and its box."""
        boxes = [{"boxes": torch.cat([target["boxes"], target["others"]])} for target in targets]
        labels, matched = super().assign_targets_to_anchors(anchors, boxes)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & covered(anchor, target["ignored"])] = -1
        self._trust = [target["trust"] for target in targets]  # compute_loss is not given the targets
        return labels, matched

    def compute_loss(
        self, objectness: Tensor, deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of the objectness (B * A, 1) and of the boxes (B * A, 4)."""
        positives, negatives = self.fg_bg_sampler(labels)
        positive = torch.cat(positives).bool()
        weight = torch.cat(
            [
                foreground + background * trust
                for foreground, background, trust in zip(positives, negatives, self._trust, strict=True)
            ]
        )
        sampled = weight > 0
        label, target = torch.cat(labels), torch.cat(regression_targets)
        objectness_loss = binary_cross_entropy_with_logits(
            objectness.flatten()[sampled], label[sampled], weight=weight[sampled], reduction="sum"
        )
        box_loss = smooth_l1_loss(deltas[positive], target[positive], beta=1 / 9, reduction="sum")
        return objectness_loss / weight.sum(), box_loss / sampled.sum()


class PartialLabelRoIHeads(RoIHeads):  # type: ignore[misc]
    """Box heads in which a proposal without a box is compared only with the listed classes of its image.

    The softmax of such a proposal is over the background and the listed classes; the other logits get no gradient. A
    proposal with a box has the class of the box. Proposals in ignored regions are left out.
    """

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections in eval mode, losses in training."""
        if not self.training or targets is None:
            return super().forward(features, proposals, image_shapes, targets)
        proposals = [
            boxes[~covered(boxes, target["ignored"])] for boxes, target in zip(proposals, targets, strict=True)
        ]
        proposals, _, labels, regression_targets = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        listed = torch.cat(
            [target["listed"].expand(len(label), -1) for label, target in zip(labels, targets, strict=True)]
        )
        logits = hide_unlisted(logits, torch.cat(labels), listed)
        class_loss, box_loss = fastrcnn_loss(logits, deltas, labels, regression_targets)
        return [], {"loss_classifier": class_loss, "loss_box_reg": box_loss}
