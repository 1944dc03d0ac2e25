"""The cells of a feature pyramid as rows of one matrix, so that any set of cells is one gather.

Letters: B images, L levels, F features, h x w cells of a level, N = B * sum of h * w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class PyramidRows(NamedTuple):
    """Cells of all levels and images.

    The cell (y, x) of an image in a level is row ``first[level] + (image * h + y) * w + x``.

    Attributes:
        rows: (N, F) features.
        first: (L,) int64, first row of each level.
        height: (L,) int64, h of each level.
        width: (L,) int64, w of each level.
    """

    rows: Tensor
    first: Tensor
    height: Tensor
    width: Tensor


def pyramid_rows(levels: Sequence[Tensor]) -> PyramidRows:
    """Join levels (B, F, h, w); a copy even if the levels are in channels-last order."""
    device = levels[0].device
    rows = [level.permute(0, 2, 3, 1).flatten(0, 2) for level in levels]  # (B h w, F)
    counts = torch.tensor([len(part) for part in rows], device=device)
    height, width = torch.tensor([level.shape[-2:] for level in levels], device=device).unbind(1)
    return PyramidRows(torch.cat(rows), counts.cumsum(0) - counts, height, width)
