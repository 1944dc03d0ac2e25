"""Outputs of a one-stage instance segmentation network and decoding of its boxes.

Letters: B images, A anchors, C classes, K bins per side, P prototypes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.ops.precision import at_least_float32

NUM_SIDES = 4


class YOLOOutput(NamedTuple):
    """Raw outputs of every anchor and the prototype masks.

    Anchors are the cells of the levels P3, P4, P5 in that order, each level row by row.

    Attributes:
        class_logits: (B, A, C), before the sigmoid; there is no objectness.
        box_logits: (B, A, 4 K), side-major: K bins of left, then of top, right, bottom.
        coefficients: (B, A, P), weights of the prototypes, unbounded.
        prototypes: (B, P, H / 4, W / 4).
        points: (A, 2) float32 centres (x, y) of the cells, in pixels of the input.
        strides: (A,) float32 sides of the cells in pixels.
    """

    class_logits: Tensor
    box_logits: Tensor
    coefficients: Tensor
    prototypes: Tensor
    points: Tensor
    strides: Tensor


def expected_distances(box_logits: Tensor) -> Tensor:
    """Return the expected bin of each side: sum_k k softmax(z)_k.

    General distribution of Generalized Focal Loss (Li et al. 2020, arXiv 2006.04388, eq. 5); the
    bins are 0, 1, ..., K - 1 cells.

    Args:
        box_logits: (..., 4 K), side-major.

    Returns:
        (..., 4) distances to left, top, right, bottom in cells, in [0, K - 1]; at least float32.

    Raises:
        ValueError: the last dimension is not a positive multiple of 4.

    >>> expected_distances(torch.zeros(1, 64))
    tensor([[7.5000, 7.5000, 7.5000, 7.5000]])
    """
    width = box_logits.shape[-1]
    if width == 0 or width % NUM_SIDES:
        raise ValueError(f"box_logits need 4 x bins values per anchor, got {width}")
    logits = at_least_float32(box_logits)
    probs = logits.reshape(*logits.shape[:-1], NUM_SIDES, width // NUM_SIDES).softmax(dim=-1)
    bins = torch.arange(probs.shape[-1], dtype=probs.dtype, device=probs.device)
    return (probs * bins).sum(dim=-1)  # a product by matmul would be rounded under autocast


def decode_boxes(box_logits: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Return the boxes of anchors: point -/+ expected distances x stride.

    Args:
        box_logits: (..., A, 4 K), side-major.
        points: (A, 2) in pixels, or (..., A, 2).
        strides: (A,) in pixels, or (..., A).

    Returns:
        (..., A, 4) xyxy in pixels, not clipped to the image; x1 <= x2 and y1 <= y2. At least
        float32.

    Raises:
        ValueError: the last dimension of ``box_logits`` is not a positive multiple of 4.
    """
    left_top, right_bottom = (expected_distances(box_logits) * strides[..., None]).chunk(2, dim=-1)
    return torch.cat((points - left_top, points + right_bottom), dim=-1)
