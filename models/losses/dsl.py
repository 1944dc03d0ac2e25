"""Disturbance suppression learning (DSL): features of a dark image follow those of the clean one.

Chen et al., "Instance Segmentation in the Dark", IJCV 131 (2023). For the levels F_l of the clean
and F'_l of the dark view of the same images:

    L_DSL = sum_l weight mean(min((F'_l - F_l)^2, limit))

The mean is over all elements of a level. An element beyond the limit has no gradient; both views
receive the gradient of the others (A486).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class DSL(NamedTuple):
    """Loss of two views and the share of its elements that are clamped, both scalars.

    The share is the mean of the levels' shares and has no gradient.
    """

    loss: Tensor
    clamped: Tensor


def dsl_loss(
    clean: Sequence[Tensor], dark: Sequence[Tensor], weight: float = 0.01, limit: float = 0.1
) -> DSL:
    """Return the truncated squared distance of the features of two views.

    >>> views = [torch.zeros(1, 1, 1, 2)], [torch.tensor([0.1, 2.0]).view(1, 1, 1, 2)]
    >>> loss, clamped = dsl_loss(*views)
    >>> f"{loss:.5f} {clamped:.1f}"  # 0.01 (0.01 + 0.1) / 2
    '0.00055 0.5'

    Args:
        clean: levels of the clean view, each (B, C, H, W).
        dark: levels of the dark view in the same order and shapes.
        weight: factor of each level.
        limit: largest squared difference of an element that is used.

    Returns:
        Loss in [0, weight limit len(clean)], and share of clamped elements.

    Raises:
        ValueError: the views have no levels, or levels of other shapes.
    """
    shapes = [[tuple(level.shape) for level in levels] for levels in (clean, dark)]
    if not shapes[0] or shapes[0] != shapes[1]:
        raise ValueError(
            f"dsl_loss needs levels of the same shapes in both views, got {shapes[0]} and "
            f"{shapes[1]}"
        )
    squares = [(b - a).square() for a, b in zip(clean, dark, strict=True)]
    loss = torch.stack([square.clamp(max=limit).mean() for square in squares]).sum() * weight
    with torch.no_grad():
        shares = [(square > limit).to(loss.dtype).mean() for square in squares]
    return DSL(loss, torch.stack(shares).mean())
