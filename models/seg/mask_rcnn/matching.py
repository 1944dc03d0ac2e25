"""Matching of ground truth with anchors or proposals (arXiv 1506.01497 sec. 3.1.2).

Labels are 1-based inside the two-stage models: 0 is the background and -1 is ignored in losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from models.ops.boxes.boxes import covered_fraction
from models.ops.precision import at_least_float32
from structures import SegBatch


@dataclass(frozen=True, slots=True)
class ImageBoxes:
    """Ground truth of one image.

    Attributes:
        boxes: (M, 4) at least float32, boxes of the instances that are not crowds.
        labels: (M,) class + 1.
        rows: (M,) rows of the instances in the batch.
        crowd: (R, 4) boxes of crowd regions.
        index: stable index of the image.
    """

    boxes: Tensor
    labels: Tensor
    rows: Tensor
    crowd: Tensor
    index: int


def image_boxes(batch: SegBatch, num_classes: int) -> list[ImageBoxes]:
    """Split the instances of a batch by image and separate crowds.

    Raises:
        ValueError: a box is empty or not finite, a label is not in [0, num_classes), or ``counts``
            does not sum to the number of boxes.
    """
    check_targets(batch, num_classes)
    rows = torch.arange(batch.boxes.shape[0], device=batch.boxes.device)
    truths = []
    parts = torch.split(rows, batch.count_list())
    for part, index in zip(parts, batch.index.tolist(), strict=True):
        crowd = batch.crowd[part]
        real = part[~crowd]
        truths.append(
            ImageBoxes(
                boxes=at_least_float32(batch.boxes[real]),
                labels=batch.labels[real] + 1,
                rows=real,
                crowd=at_least_float32(batch.boxes[part[crowd]]),
                index=index,
            )
        )
    return truths


def check_targets(batch: SegBatch, num_classes: int) -> None:
    """Check that losses can be computed from the targets.

    Raises:
        ValueError: a box is empty or not finite, or a label is not in [0, num_classes); the message
            names the image.
    """
    boxes, labels = batch.boxes, batch.labels
    bad_box = ~((boxes[:, 2:] > boxes[:, :2]) & boxes.isfinite().view(-1, 2, 2).all(1)).all(1)
    bad = bad_box | (labels < 0) | (labels >= num_classes)
    if not bool(bad.any()):  # the only synchronisation with the device
        return
    row = int(bad.nonzero()[0])
    image = int((batch.counts.cumsum(0) <= row).sum())
    name = batch.image_ids[image] if batch.image_ids else f"of index {int(batch.index[image])}"
    what = (
        f"an empty or non-finite box {boxes[row].tolist()}; remove the instance or recompute its "
        "box from the mask"
        if bad_box[row]
        else f"label {int(labels[row])}, but the model has classes 0 to {num_classes - 1}; "
        "link num_classes from the datamodule"
    )
    raise ValueError(f"image {name} has {what}")


@torch.no_grad()
def match_regions(
    regions: Tensor, truth: ImageBoxes, matcher: Matcher, crowd_thresh: float
) -> tuple[Tensor, Tensor]:
    """Match every region with an instance or the background.

    Args:
        regions: (N, 4) anchors or proposals.
        truth: instances of the image.
        matcher: torchvision's matcher with the IoU thresholds.
        crowd_thresh: background regions with at least this fraction of their area in the box of
            one crowd region are ignored.

    Returns:
        Labels (N,) int64: class + 1, 0 for background, -1 for ignored; and the position (N,) of
        the matched instance in ``truth``, arbitrary if the label is not positive.
    """
    matched = torch.full((regions.shape[0],), Matcher.BELOW_LOW_THRESHOLD, device=regions.device)
    labels = torch.zeros_like(matched)
    if truth.boxes.shape[0] and regions.shape[0]:
        matched = matcher(box_iou(truth.boxes, regions))
        labels = truth.labels[matched.clamp(min=0)].masked_fill(matched < 0, 0)
        labels = labels.masked_fill(matched == Matcher.BETWEEN_THRESHOLDS, -1)
    if truth.crowd.shape[0]:
        in_crowd = covered_fraction(regions, truth.crowd) >= crowd_thresh
        labels = labels.masked_fill(in_crowd & (labels == 0), -1)
    return labels, matched.clamp(min=0)
