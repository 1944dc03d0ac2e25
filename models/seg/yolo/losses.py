"""Losses of one-stage instance segmentation with task-aligned assignment.

Anchors are assigned as in TOOD (arXiv 2108.07755); a positive anchor with target score q learns

    class   BCE(class logits, q at its object's class, else 0), over all anchors and classes, / S
    box     q (1 - CIoU), / S                                            (arXiv 1911.08287)
    dfl     q times the mean over sides of Distribution Focal Loss, / S    (arXiv 2006.04388)
    mask    BCE(coefficients @ prototypes, mask) in the object's box / the box's area in cells,
            / number of positives                                        (arXiv 1904.02689)

with S = max(1, sum of q). S and the number of positives are counted over the batch and over all
processes. Boxes and masks of all images are processed together. Assumptions A210 to A217.

Letters: B images, A anchors, C classes, M instances, P positives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.distribution_focal import distribution_focal_loss
from models.ops.bags.ragged import segment_counts, segment_ids
from models.ops.boxes.boxes import complete_iou
from models.ops.boxes.task_aligned import Objects, Positives, anchors_inside, assign_anchors
from models.ops.distributed import LossTerm, reduce_terms, sum_by_image
from models.ops.masks.prototype_masks import window_mask_losses
from models.ops.masks.windows import mask_windows
from models.ops.precision import at_least_float32
from models.seg.mask_rcnn.matching import check_targets
from models.seg.protocol import Reduction
from models.seg.yolo.output import YOLOOutput, decode_boxes
from structures import SegBatch

PROTOTYPE_STRIDE = 4


@dataclass(frozen=True)
class YOLOLossOptions:
    """Options of assignment and losses; the defaults are those of the published models.

    Attributes:
        top_k: largest number of anchors assigned to an object.
        alpha: exponent of the class score in the assignment.
        beta: exponent of the overlap in the assignment.
        min_side: pixels to which shorter sides of a box are widened in the search for anchors, so
            that objects smaller than a cell get some.
        smallest_owns: assign a pixel of several masks only to the smallest of them, which removes
            it from the targets of the others.

    Raises:
        ValueError: ``top_k`` is below 1 or another number is negative.
    """

    top_k: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    min_side: float = 16.0
    smallest_owns: bool = True

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        for name in ("alpha", "beta", "min_side"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be finite and not negative, got {getattr(self, name)}"
                )


class _Truth(NamedTuple):
    """Instances of the batch to learn, their rows in the batch, and crowd boxes."""

    objects: Objects
    rows: Tensor
    crowd_boxes: Tensor
    crowd_images: Tensor


_DEFAULT = YOLOLossOptions()


def yolo_losses(
    output: YOLOOutput,
    batch: SegBatch,
    num_classes: int,
    options: YOLOLossOptions = _DEFAULT,
    reduction: Reduction = "mean",
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms ``box``, ``class``, ``dfl`` and ``mask``, without gains.

    Args:
        output: of the network for ``batch.images``.
        batch: images with targets; images or batches without instances are allowed and still give
            every input a gradient. Crowd instances are not targets, and negative anchors in the
            box of a crowd are ignored (A217). ``mask_stride`` is 1, 2 or 4.
        num_classes: C.
        options: options of assignment and masks.
        reduction: ``mean`` gives scalars, with denominators counted over all processes; ``none``
            gives (B,) values, each equal to the scalar of a batch of that image alone.
        class_weights: (C,), factor of ``class`` for the anchors of each class's objects; other
            anchors, and S, are not weighted (A334). None for 1.

    Returns:
        Losses in at least float32, also for half-precision outputs and under autocast.

    Raises:
        ValueError: a box is empty or not finite, a label is not in [0, num_classes),
            ``mask_stride`` is not supported, or the outputs are not for B images and C classes.
    """
    _check_output(output, batch, num_classes)
    check_targets(batch, num_classes)
    truth = _truth(batch)
    with torch.no_grad():
        boxes = decode_boxes(output.box_logits, output.points, output.strides)
    positives = assign_anchors(
        output.class_logits,
        boxes,
        output.points,
        truth.objects,
        options.top_k,
        options.alpha,
        options.beta,
        options.min_side,
    )
    images = truth.objects.images[positives.objects]
    score_sum = sum_by_image(positives.scores, images, len(batch))
    number = segment_counts(images, len(batch)).to(score_sum.dtype)
    box, focal = _box_losses(output, truth, positives)
    mask = _mask_losses(output, batch, truth, positives, options)
    terms = {
        "box": LossTerm(sum_by_image(box, images, len(batch)), score_sum),
        "class": LossTerm(_class_loss(output, truth, positives, class_weights), score_sum),
        "dfl": LossTerm(sum_by_image(focal, images, len(batch)), score_sum),
        "mask": LossTerm(sum_by_image(mask, images, len(batch)), number),
    }
    return reduce_terms(terms, reduction)


def _check_output(output: YOLOOutput, batch: SegBatch, num_classes: int) -> None:
    images, _, classes = output.class_logits.shape
    if (images, classes) != (len(batch), num_classes):
        raise ValueError(
            f"class_logits have {images} images and {classes} classes, but the targets have "
            f"{len(batch)} and {num_classes}"
        )


def _truth(batch: SegBatch) -> _Truth:
    counts = batch.counts
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    images = segment_ids(offsets, batch.boxes.shape[0])
    boxes = at_least_float32(batch.boxes)
    rows, crowd = (~batch.crowd).nonzero().flatten(), batch.crowd.nonzero().flatten()
    objects = Objects(boxes[rows], batch.labels[rows], images[rows])
    return _Truth(objects, rows, boxes[crowd], images[crowd])


def _class_loss(
    output: YOLOOutput, truth: _Truth, positives: Positives, weights: Tensor | None
) -> Tensor:
    """Return (B,): sum over anchors and classes of softplus(z) - q z, which is the BCE."""
    logits = at_least_float32(output.class_logits)
    batch, anchors, _ = logits.shape
    base = F.softplus(logits).sum(dim=2)  # (B, A)
    if truth.crowd_boxes.shape[0]:
        crowd, anchor = anchors_inside(truth.crowd_boxes, output.points)
        kept = torch.ones(batch * anchors, dtype=torch.bool, device=logits.device)
        kept[truth.crowd_images[crowd] * anchors + anchor] = False
        kept[positives.rows] = True
        base = base * kept.view(batch, anchors)
    labels = truth.objects.labels[positives.objects]
    images = truth.objects.images[positives.objects]
    wanted = logits.flatten(0, 1)[positives.rows, labels] * positives.scores
    if weights is not None:
        own = weights.to(logits)[labels]
        factors = torch.ones_like(base).flatten().index_put((positives.rows,), own)
        base, wanted = base * factors.view(batch, anchors), wanted * own
    return base.sum(dim=1) - sum_by_image(wanted, images, batch)


def _box_losses(output: YOLOOutput, truth: _Truth, positives: Positives) -> tuple[Tensor, Tensor]:
    """Return (P,) box and distance losses, weighted by target score."""
    logits = output.box_logits.flatten(0, 1).index_select(0, positives.rows)
    anchor = positives.rows % output.points.shape[0]
    points, strides = output.points[anchor], output.strides[anchor]
    targets = truth.objects.boxes[positives.objects]
    overlap = complete_iou(decode_boxes(logits, points, strides), targets)
    distances = torch.cat([points - targets[:, :2], targets[:, 2:] - points], dim=1)
    focal = distribution_focal_loss(logits, distances / strides.unsqueeze(1))
    return (1 - overlap) * positives.scores, focal * positives.scores


def _mask_losses(
    output: YOLOOutput,
    batch: SegBatch,
    truth: _Truth,
    positives: Positives,
    options: YOLOLossOptions,
) -> Tensor:
    """Return (P,): cross-entropy summed over the box's cells / the box's area in cells."""
    prototypes = output.prototypes
    boxes = truth.objects.boxes
    windows = mask_windows(
        boxes,
        truth.objects.images,
        batch.masks,
        truth.rows,
        (prototypes.shape[0], prototypes.shape[2], prototypes.shape[3]),
        PROTOTYPE_STRIDE,
        batch.mask_stride,
        options.smallest_owns,
    )
    coefficients = output.coefficients.flatten(0, 1).index_select(0, positives.rows)
    losses = window_mask_losses(coefficients, prototypes, positives.objects, windows)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) / PROTOTYPE_STRIDE**2
    return losses / area[positives.objects]
