"""Generalised intersection over union (Rezatofighi et al. 2019, arXiv 1902.09630, algorithm 1).

GIoU = IoU - (hull - union) / hull,   hull: the area of the smallest box around both
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.precision import at_least_float32

_EPSILON = 1e-7  # keeps the quotients of boxes without extent finite


def to_corners(boxes: Tensor) -> Tensor:
    """Convert (centre x, centre y, width, height) to (x1, y1, x2, y2), (..., 4).

    >>> to_corners(torch.tensor([5.0, 5.0, 2.0, 4.0])).tolist()
    [4.0, 3.0, 6.0, 7.0]
    """
    centre, extent = boxes.chunk(2, dim=-1)
    return torch.cat([centre - extent / 2, centre + extent / 2], dim=-1)


def to_centres(boxes: Tensor) -> Tensor:
    """Convert (x1, y1, x2, y2) to (centre x, centre y, width, height), (..., 4)."""
    low, high = boxes.chunk(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def generalised_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return the generalised IoU of each box with its own target; the loss is 1 less this.

    Args:
        boxes: (..., 4), (x1, y1, x2, y2); width and height may be 0.
        targets: (..., 4) of the same shape, or one that broadcasts: (Q, 1, 4) and (M, 4) give all
            pairs.

    Returns:
        (...) in [-1, 1], at least float32.

    >>> one = torch.tensor([0.0, 0, 2, 2])
    >>> generalised_iou(one, torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [4, 0, 6, 2]]))
    tensor([ 1.0000,  0.3333, -0.3333])
    """
    boxes, targets = at_least_float32(boxes), at_least_float32(targets)
    low, high = boxes.chunk(2, dim=-1)
    target_low, target_high = targets.chunk(2, dim=-1)
    common = (torch.minimum(high, target_high) - torch.maximum(low, target_low)).clamp(min=0)
    hull = _area(torch.maximum(high, target_high) - torch.minimum(low, target_low))
    overlap = _area(common)
    union = _area(high - low) + _area(target_high - target_low) - overlap
    hull, union = hull.clamp(min=_EPSILON), union.clamp(min=_EPSILON)
    return overlap / union - (hull - union) / hull


def _area(extent: Tensor) -> Tensor:
    """Return width times height; the gradient of ``prod`` would wait for the device."""
    return extent[..., 0] * extent[..., 1]
