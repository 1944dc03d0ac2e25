"""Positions of cells as sines and cosines (Carion et al. 2020, arXiv 2005.12872, appendix A.4).

With D / 2 channels for each axis and the position p in (0, 2 pi] along it, channel 2k of an axis is
sin(p / 10000^(4k / D)) and channel 2k + 1 the cosine of the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TEMPERATURE = 10000.0
_EPS = 1e-6


def sine_positions(size: tuple[int, int], channels: int, like: Tensor) -> Tensor:
    """Return the positions of the cells of a map.

    Args:
        size: (h, w) of the map; its last row and column are at 2 pi.
        channels: D, a multiple of 4; the first half is for y, the second for x.
        like: tensor of the dtype and device of the result.

    Returns:
        (h w, D), row by row.

    >>> sine_positions((1, 2), 4, torch.zeros(1))[:, 3].round(decimals=3).tolist()  # cos of x
    [-1.0, 1.0]
    """
    height, width = size
    rows, columns = (_along(side, channels // 2, like) for side in size)
    return torch.cat(
        [
            rows[:, None].expand(height, width, -1),
            columns[None].expand(height, width, -1),
        ],
        dim=-1,
    ).flatten(0, 1)


def _along(side: int, channels: int, like: Tensor) -> Tensor:
    """Return (side, channels) for the cells of an axis."""
    place = torch.arange(1, side + 1, dtype=like.dtype, device=like.device)
    return sines(place / (side + _EPS), channels)


def sines(fractions: Tensor, channels: int) -> Tensor:
    """Return sines and cosines in turn, (..., channels), of fractions (...) of the full circle.

    Args:
        fractions: the position p / 2 pi.
        channels: D / 2, an even number.
    """
    pair = torch.arange(channels // 2, dtype=fractions.dtype, device=fractions.device)
    angles = fractions[..., None] * (2 * math.pi) / _TEMPERATURE ** (2 * pair / channels)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
