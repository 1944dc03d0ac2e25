"""The proposal head at single anchors.

The losses of the proposal network read 256 anchors of an image, out of tens of thousands. Applied
to the surroundings of these alone the head has the same outputs as on the whole map, but its
backward pass costs next to nothing (A352).

Shapes: S anchors of all images, F features, D convolutions of the head, R anchors per cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.rpn import RPNHead

from models.ops.boxes.pyramid_rows import pyramid_rows
from models.ops.precision import at_least_float32


def head_at_anchors(
    head: RPNHead, features: Sequence[Tensor], image: Tensor, anchor: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the outputs of ``head`` for single anchors, at least float32.

    Args:
        head: 3x3 convolutions with zero padding, each followed by ReLU, and two linear outputs.
        features: (B, F, h, w) of each level.
        image: (S,) int64 in [0, B).
        anchor: (S,) int64, place among the anchors of all levels, in the order level, row, column,
            anchor of the cell.

    Returns:
        Logits (S,) and box code (S, 4).
    """
    num_ratios = head.cls_logits.out_channels
    x, inside, ratio = surroundings(features, image, anchor, len(head.conv), num_ratios)
    for block in head.conv:
        layer = block[0]
        windows = x.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)  # (S, k - 2, k - 2, 9 F)
        inside = inside[:, 1:-1, 1:-1]
        x = F.linear(windows, layer.weight.flatten(1), layer.bias).relu()
        x = x * inside[..., None]  # the next convolution sees zeros beyond the border
    x = x[:, 0, 0]
    logits, code = (
        F.linear(x, layer.weight.flatten(1), layer.bias)
        for layer in (head.cls_logits, head.bbox_pred)
    )
    chosen = torch.arange(len(anchor), device=anchor.device), ratio
    return (
        at_least_float32(logits)[chosen],
        at_least_float32(code).view(-1, num_ratios, 4)[chosen],
    )


def surroundings(
    features: Sequence[Tensor], image: Tensor, anchor: Tensor, reach: int, num_ratios: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells around each anchor's own.

    Args:
        features: (B, F, h, w) of each level.
        image: (S,) int64 in [0, B).
        anchor: (S,) int64, place among the anchors of all levels.
        reach: D, cells on each side.
        num_ratios: R, anchors per cell.

    Returns:
        Features (S, 2 D + 1, 2 D + 1, F), 0 beyond the map; whether each cell is in the map, bool
        of the first three sizes; and the number (S,) of the anchor within its cell.
    """
    rows, first, height, width = pyramid_rows(features)
    ends = (height * width * num_ratios).cumsum(0)
    level = torch.bucketize(anchor, ends, right=True)
    h, w = height[level], width[level]
    place = anchor - ends[level] + h * w * num_ratios
    cell = place // num_ratios
    around = torch.arange(-reach, reach + 1, device=anchor.device)
    y = (cell // w)[:, None, None] + around[:, None]
    x = (cell % w)[:, None, None] + around
    h, w = h[:, None, None], w[:, None, None]
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    index = (image[:, None, None] * h + y) * w + x + first[level][:, None, None]
    values = F.embedding(index.where(inside, 0), rows) * inside[..., None]
    return values, inside, place % num_ratios
