"""Neighbours and weights of bilinear interpolation with zeros around the map.

As ``grid_sample`` with ``align_corners=False``: the centre of cell c is at c + 1/2. Written out
where many values are read at the same places, so that each place is computed once and rows of
channels are read as a whole (``torch.nn.functional.embedding_bag``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Neighbours(NamedTuple):
    """The two cells of an axis around each place.

    Attributes:
        cells: (..., 2) int64, cut to the map.
        weights: (..., 2), 0 where the cell is outside.
        inside: (..., 2) bool.
    """

    cells: Tensor
    weights: Tensor
    inside: Tensor


def neighbours(places: Tensor, size: int) -> Neighbours:
    """Return the cells around places on an axis.

    Args:
        places: (...) float, in cells; the axis reaches from 0 to ``size``.
        size: number of cells.
    """
    # Places far outside would overflow as integers; at these bounds no neighbour is inside.
    places = (places - 0.5).clamp(min=-2, max=size + 1).unsqueeze(-1)
    low = places.floor()
    cells = low.long() + torch.arange(2, device=places.device)
    inside = (cells >= 0) & (cells < size)
    part = places - low
    weights = torch.cat([1 - part, part], dim=-1) * inside
    return Neighbours(cells.clamp_(0, size - 1), weights, inside)
