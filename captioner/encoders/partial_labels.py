"""Losses of Faster R-CNN (Ren 2015) for partly labelled images, in which some objects have no box.

A class is *listed* for an image if all its objects in it have boxes.

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


class PartialLabelRoIHeads(RoIHeads):  # type: ignore[misc]
    """Box heads for which a proposal without a box is background only against its image's listed classes.

    The softmax of such a proposal runs over the background and the listed classes; the other logits get no gradient. A
    proposal with a box has that box's class. Proposals in ignored regions are left out.
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
        proposals, _, labels, goals = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        listed = torch.cat(
            [target["listed"].expand(len(label), -1) for label, target in zip(labels, targets, strict=True)]
        )
        logits = hide_unlisted(logits, torch.cat(labels), listed)
        classes, boxes = fastrcnn_loss(logits, deltas, labels, goals)
        return [], {"loss_classifier": classes, "loss_box_reg": boxes}
