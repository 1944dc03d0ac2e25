"""Pairs of overlapping boxes, found without comparing all boxes with each other.

Boxes are put into square cells. Each box is stored at the level of the smallest cells that are not
smaller than the box, so that it lies in at most four of them; it is searched at its own and all
coarser levels. The time is linear in the numbers of boxes and pairs for any box sizes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def overlapping_pairs(boxes: Floats, labels: Ints) -> Ints:
    """Return all pairs of boxes of equal label whose intersection has a positive area.

    Args:
        boxes: (N, 4), (x1, y1, x2, y2); boxes without extent overlap nothing.
        labels: (N,), not negative.

    Returns:
        (P, 2) int64, the smaller index first, in ascending order.

    >>> overlapping_pairs(np.array([[0., 0, 4, 4], [2, 2, 6, 6], [4, 0, 9, 4]]), np.zeros(3, int))
    array([[0, 1],
           [1, 2]])
    """
    extent = boxes[:, 2:] - boxes[:, :2]
    kept = np.flatnonzero((extent > 0).all(axis=1))
    if kept.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    mantissa, exponent = np.frexp(np.maximum(extent[kept].max(axis=1), 1))
    level = exponent - (mantissa == 0.5)  # log2, rounded up
    origin = boxes[kept, :2].min(axis=0)
    corners = boxes[kept] - np.tile(origin, 2)
    codes = []
    for step in np.unique(level).tolist():
        filed, sought = np.flatnonzero(level == step), np.flatnonzero(level <= step)
        first, second = _joined(
            filed, _cells(corners, labels[kept], filed, step),
            sought, _cells(corners, labels[kept], sought, step),
        )  # fmt: skip
        low = np.maximum(corners[first, :2], corners[second, :2])
        high = np.minimum(corners[first, 2:], corners[second, 2:])
        common = (high > low).all(axis=1) & (first != second)
        one, other = kept[first[common]], kept[second[common]]
        codes.append(np.unique(np.minimum(one, other) * len(boxes) + np.maximum(one, other)))
    found = np.unique(np.concatenate(codes))
    return np.stack([found // len(boxes), found % len(boxes)], axis=1)


def _cells(corners: Floats, labels: Ints, rows: Ints, level: int) -> Ints:
    """Return (rows, 4) ids of the cells that a box lies in, padded with -1."""
    cell = np.floor(corners / 2.0**level).astype(np.int64)
    wide = int(cell[:, 2].max()) + 1
    high = int(cell[:, 3].max()) + 1
    left, top, right, bottom = cell[rows].T
    base = labels[rows] * wide
    columns = np.stack([left, np.where(right > left, right, -1)], axis=1)
    lines = np.stack([top, np.where(bottom > top, bottom, -1)], axis=1)
    number = (base[:, None, None] + columns[:, :, None]) * high + lines[:, None, :]
    there = (columns[:, :, None] >= 0) & (lines[:, None, :] >= 0)
    return np.where(there, number, -1).reshape(-1, 4)


def _joined(filed: Ints, filed_cells: Ints, sought: Ints, sought_cells: Ints) -> tuple[Ints, Ints]:
    """Return all pairs (filed, sought) that share a cell, once for every shared cell."""
    cells, owner = filed_cells.ravel(), np.repeat(filed, 4)
    order = np.argsort(cells, kind="stable")
    order = order[cells[order] >= 0]
    cells, owner = cells[order], owner[order]
    wanted, seeker = sought_cells.ravel(), np.repeat(sought, 4)
    wanted, seeker = wanted[wanted >= 0], seeker[wanted >= 0]
    low = np.searchsorted(cells, wanted, side="left")
    number = np.searchsorted(cells, wanted, side="right") - low
    place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    return owner[np.repeat(low, number) + place], np.repeat(seeker, number)
