"""Box operations missing in torchvision. Boxes are (x1, y1, x2, y2), half-open."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.ops.precision import at_least_float32

_EPSILON = 1e-7  # keeps the quotients of boxes without extent finite


def covered_fraction(boxes: Tensor, regions: Tensor) -> Tensor:
    """Return the fraction of each box covered by the region that covers most of it.

    Args:
        boxes: (N, 4).
        regions: (R, 4), R may be 0.

    Returns:
        (N,) in [0, 1]: max over regions of area(box and region) / area(box); 0 for empty boxes.
    """
    if regions.shape[0] == 0:
        return boxes.new_zeros(boxes.shape[0])
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2)  # (N, R)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return inside.max(dim=1).values / area.clamp(min=torch.finfo(area.dtype).tiny)


def rescale_boxes(boxes: Tensor, old_size: Tensor, new_size: Tensor) -> Tensor:
    """Rescale boxes from one image size to another.

    Args:
        boxes: (N, 4) float.
        old_size: (2,) (height, width).
        new_size: (2,) (height, width).
    """
    ratio = new_size.to(boxes.dtype) / old_size.to(boxes.dtype)
    return boxes * ratio.flip(0).repeat(2)


def fpn_levels(boxes: Tensor, first: int, last: int, canonical_size: float = 224.0) -> Tensor:
    """Assign boxes to pyramid levels by their size.

    FPN (arXiv 1612.03144) eq. 1: k = floor(4 + log2(sqrt(w h) / canonical_size)), clamped. As in
    torchvision 1e-6 is added before the floor, so that a box of exactly canonical size is level 4.

    Args:
        boxes: (N, 4).
        first: finest level available, log2 of its stride.
        last: coarsest level available.
        canonical_size: side in pixels of a box that belongs to level 4.

    Returns:
        (N,) int64 in [0, last - first], position among the available levels.
    """
    side = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    level = torch.floor(4 + torch.log2(side / canonical_size) + 1e-6)
    return level.clamp(min=first, max=last).to(torch.int64) - first


def complete_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return the complete IoU of each box with its own target.

    CIoU = IoU - d^2 / c^2 - a v (Zheng et al. 2020, arXiv 1911.08287, eq. 8 to 11): d is the
    distance of the centres, c the diagonal of the smallest box around both, v = 4 / pi^2
    (atan(w* / h*) - atan(w / h))^2 and a = v / (1 - IoU + v), which gets no gradient.

    Args:
        boxes: (..., 4); width and height may be 0.
        targets: (..., 4), not empty; of the same shape or one that broadcasts.

    Returns:
        (...) in (-1.5, 1], at least float32; 1 for equal boxes.

    >>> complete_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([0.0, 0, 2, 2]))
    tensor(1.)
    """
    boxes, targets = at_least_float32(boxes), at_least_float32(targets)
    low, high = boxes.chunk(2, dim=-1)
    target_low, target_high = targets.chunk(2, dim=-1)
    width, height = (high - low).unbind(-1)
    target_width, target_height = (target_high - target_low).unbind(-1)
    common = (torch.minimum(high, target_high) - torch.maximum(low, target_low)).clamp(min=0)
    overlap = common[..., 0] * common[..., 1]
    union = width * height + target_width * target_height - overlap
    iou = overlap / union.clamp(min=_EPSILON)
    hull = torch.maximum(high, target_high) - torch.minimum(low, target_low)
    diagonal = hull.square().sum(dim=-1).clamp(min=_EPSILON)
    apart = ((low + high - target_low - target_high) / 2).square().sum(dim=-1)
    # clamped before the angle, which has no gradient for a point
    shape = torch.atan2(width.clamp(min=_EPSILON), height.clamp(min=_EPSILON))
    unlike = 4 / math.pi**2 * (torch.atan2(target_width, target_height) - shape).square()
    with torch.no_grad():
        share = unlike / (1 - iou + unlike).clamp(min=_EPSILON)
    value: Tensor = iou - apart / diagonal - share * unlike
    return value
