"""Box arithmetic that torchvision has no function for. Boxes are (x1, y1, x2, y2), half-open."""

from __future__ import annotations

import torch
from torch import Tensor


def covered_fraction(boxes: Tensor, regions: Tensor) -> Tensor:
    """Return how much of each box lies in the region that covers most of it.

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
    """Move boxes from a picture of one size to the same picture at another size.

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
