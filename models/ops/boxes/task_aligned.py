"""Task-aligned assignment of anchors to objects (TOOD, Feng et al. 2021, arXiv 2108.07755).

Anchors compete for an object by t = s^alpha u^beta (eq. 5): s is the anchor's score for the class
of the object and u the overlap of the predicted with the true box. Both are computed only for pairs
of an anchor and an object around it, without loops over images or objects.

Letters: B images, A anchors, C classes, M objects of all images, Q pairs, P positives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.ops.bags.ragged import segment_counts
from models.ops.bags.ragged_order import segment_rank
from models.ops.boxes.boxes import complete_iou
from models.ops.precision import at_least_float32

_EPSILON = 1e-9  # A212


class Objects(NamedTuple):
    """Objects that anchors are assigned to.

    Attributes:
        boxes: (M, 4) xyxy in pixels.
        labels: (M,) int64 in [0, C).
        images: (M,) int64 in [0, B), in any order.
    """

    boxes: Tensor
    labels: Tensor
    images: Tensor


class Positives(NamedTuple):
    """Anchors that are assigned to an object, grouped by object.

    Attributes:
        rows: (P,) int64 in [0, B A), image x A + anchor; unique.
        objects: (P,) int64 in [0, M), ascending.
        scores: (P,) in [0, 1], target of the class score.
    """

    rows: Tensor
    objects: Tensor
    scores: Tensor


def anchors_inside(boxes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs of a box and an anchor point strictly inside it (A210).

    Args:
        boxes: (M, 4).
        points: (A, 2).

    Returns:
        Two (Q,) int64: boxes, ascending, and anchors, ascending for each box.
    """
    x, y = points.to(boxes.dtype).unbind(dim=1)
    x1, y1, x2, y2 = boxes.unsqueeze(2).unbind(dim=1)  # (M, 1) each
    inside = (x > x1) & (x < x2)
    inside &= (y > y1) & (y < y2)
    box, anchor = inside.nonzero(as_tuple=True)
    return box, anchor


@torch.no_grad()
def assign_anchors(
    class_logits: Tensor,
    boxes: Tensor,
    points: Tensor,
    objects: Objects,
    top_k: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    min_side: float = 16.0,
) -> Positives:
    """Assign to each object the anchors inside it that predict it best.

    Candidates are the anchors whose point lies in the object's box, whose sides are widened to at
    least ``min_side`` for this test (A211). The ``top_k`` candidates with the largest t = s^alpha
    max(u, 0)^beta > 0 are chosen (the first of equal ones), with s = sigmoid of the logit of the
    object's class and u = CIoU with the true box. An anchor chosen by several objects is assigned
    to the one with the largest u among all objects it is a candidate of (A212). The target score is
    t (largest u of the object / (largest t of the object + 1e-9)), over the anchors assigned to the
    object: TOOD's normalised t.

    Args:
        class_logits: (B, A, C).
        boxes: (B, A, 4) predicted, xyxy in pixels.
        points: (A, 2) in pixels.
        objects: objects of all images; may be empty.
        top_k: largest number of anchors per object, at least 1.
        alpha: exponent of the score.
        beta: exponent of the overlap.
        min_side: smallest side in pixels, 0 to leave the boxes unchanged.

    Raises:
        ValueError: ``top_k`` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    anchors, total = points.shape[0], objects.boxes.shape[0]
    owner, anchor = anchors_inside(_widened(objects.boxes, min_side), points)
    row = objects.images[owner] * anchors + anchor
    logits = class_logits.flatten(0, 1)[row, objects.labels[owner]]
    overlap = complete_iou(boxes.flatten(0, 1)[row], objects.boxes[owner])
    fit = at_least_float32(logits).sigmoid().pow(alpha) * overlap.clamp(min=0).pow(beta)
    first = owner.new_zeros(total + 1)
    first[1:] = segment_counts(owner, total).cumsum(0)
    chosen = (segment_rank(fit, first, descending=True) < top_k) & (fit > 0)
    rows = boxes.shape[0] * anchors
    contested = segment_counts(row, rows, chosen)[row] > 1
    kept = _best_of_each(row, overlap, rows).where(contested, chosen).nonzero().flatten()
    owner, row, fit, overlap = (part[kept] for part in (owner, row, fit, overlap))
    best_fit = fit.new_zeros(total).scatter_reduce(0, owner, fit, "amax")[owner]
    best_overlap = overlap.new_zeros(total).scatter_reduce(0, owner, overlap, "amax")[owner]
    scores = fit / (best_fit + _EPSILON) * best_overlap
    return Positives(row, owner, scores)


def _widened(boxes: Tensor, min_side: float) -> Tensor:
    """Widen sides of boxes (M, 4) shorter than ``min_side``, keeping the centres."""
    missing = (min_side - (boxes[:, 2:] - boxes[:, :2])).clamp(min=0) / 2
    return boxes + torch.cat([-missing, missing], dim=1)


def _best_of_each(row: Tensor, overlap: Tensor, rows: int) -> Tensor:
    """Return (Q,) bool, True for the first pair with the largest overlap of each row."""
    best = overlap.new_full((rows,), -torch.inf).scatter_reduce(0, row, overlap, "amax")
    pairs, none = torch.arange(row.shape[0], device=row.device), row.shape[0]
    leading = pairs.where(overlap == best[row], none)
    first = row.new_full((rows,), none).scatter_reduce(0, row, leading, "amin")
    return first[row] == pairs
