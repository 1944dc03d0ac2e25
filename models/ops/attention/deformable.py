"""Multi-scale deformable attention (Zhu et al. 2021, arXiv 2010.04159, eq. 3) in plain PyTorch.

    out_qm = sum_l sum_p A_mlqp V_lm(x_mlqp)

V_lm(x) interpolates the values of head m on level l bilinearly at the location x, with zeros around
the map. One level after the other is sampled and added, so that memory does not grow with the
number of levels.

Letters: B images, S cells of all levels, M heads, D channels of a head, Q queries, L levels,
P points of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum the values at a few locations of each level.

    Args:
        value: (B, S, M, D), the cells of all levels, level by level and row by row. Padding is zero
            where it shall not be seen.
        shapes: (height, width) of each level.
        locations: (B, Q, M, L, P, 2), (x, y); a map reaches from 0 to 1, the centre of its first
            cell is at half a cell. Values outside the maps are 0.
        weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M D).

    Raises:
        ValueError: the shapes do not have S cells, or not L levels.
    """
    batch, cells, heads, width = value.shape
    queries, levels, points = locations.shape[1], *locations.shape[3:5]
    if sum(h * w for h, w in shapes) != cells or len(shapes) != levels:
        raise ValueError(
            f"levels of {list(shapes)} do not have {cells} cells on {levels} levels of locations"
        )
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B M, Q, L, P, 2)
    factors = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels, points)
    parts = value.split([h * w for h, w in shapes], dim=1)
    total: Tensor | None = None
    for level, ((h, w), part) in enumerate(zip(shapes, parts, strict=True)):
        maps = part.flatten(2).transpose(1, 2).reshape(batch * heads, width, h, w)
        seen = F.grid_sample(maps, grids[:, :, level], align_corners=False)  # (B M, D, Q, P)
        added = (seen * factors[:, :, :, level]).sum(dim=-1)
        total = added if total is None else total + added
    assert total is not None
    return total.view(batch, heads * width, queries).transpose(1, 2)
