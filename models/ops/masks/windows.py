"""Mask targets of objects, read only at the prototype cells in the window of each object's box.

A cell is ``stride`` pixels a side. Windows have all sizes and are packed one after the other, so
that cost and memory follow the area of the objects and not their number times the whole map.

Letters: B images, M rows of masks, O objects, N cells of all windows, h x w cells of a map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.ops.bags.ragged import segment_counts, segment_ids


class MaskWindows(NamedTuple):
    """Cells of the windows of O objects.

    Attributes:
        cells: (N,) int64, (image x h + row) x w + column.
        targets: (N,) bool, whether the object is there.
        offsets: (O + 1,) int64, object o has the cells ``offsets[o]:offsets[o + 1]``, none if its
            box is so small that it holds no cell.
    """

    cells: Tensor
    targets: Tensor
    offsets: Tensor


class _Places(NamedTuple):
    """Where the cells of packed windows are; owner, row and column are (N,) int64."""

    owner: Tensor
    row: Tensor
    column: Tensor
    offsets: Tensor


def mask_windows(
    boxes: Tensor,
    images: Tensor,
    masks: Tensor,
    rows: Tensor,
    size: tuple[int, int, int],
    stride: int,
    mask_stride: int,
    smallest_owns: bool = True,
) -> MaskWindows:
    """Cut the mask of each object out at the cells in its box.

    A cell is in the window of box (x1, y1, x2, y2) if its number c fulfils x1 <= stride c < x2,
    and likewise below (A215). It is in the mask if at least half of its pixels are, those beyond
    the border counting as out (A214).

    Args:
        boxes: (O, 4) in pixels; parts outside the map are left out.
        images: (O,) int64 in [0, B).
        masks: (M, H / mask_stride, W / mask_stride) bool.
        rows: (O,) int64, which mask is whose.
        size: (B, h, w) of the maps.
        stride: pixels a cell of the maps.
        mask_stride: pixels a cell of ``masks``.
        smallest_owns: whether a cell in several masks is left to the one with the fewest cells,
            of equal ones the first (A216); otherwise it is in all of them.

    Raises:
        ValueError: ``mask_stride`` does not divide ``stride``.
    """
    if stride % mask_stride:
        raise ValueError(
            f"masks at stride {mask_stride} have no whole number of cells in one of stride {stride}"
        )
    batch, height, width = size
    corners = boxes / stride
    places = _places(corners, (height, width))
    targets = _read(masks, rows, places, stride // mask_stride)
    cells = (images[places.owner] * height + places.row) * width + places.column
    if smallest_owns:
        targets = _leave_to_smallest(targets, cells, places, batch * height * width)
    first = corners[places.owner]
    kept = (places.column >= first[:, 0]) & (places.row >= first[:, 1])
    offsets = torch.zeros_like(places.offsets)
    offsets[1:] = segment_counts(places.owner, boxes.shape[0], kept).cumsum(0)
    left = kept.nonzero().flatten()
    return MaskWindows(cells[left], targets[left], offsets)


def _places(corners: Tensor, size: tuple[int, int]) -> _Places:
    """List all cells that boxes (O, 4), in cells, have a part in."""
    height, width = size
    low = corners[:, :2].floor().long().clamp(min=0)
    right, bottom = corners[:, 2:].ceil().long().unbind(dim=1)
    high = torch.stack([right.clamp(max=width), bottom.clamp(max=height)], dim=1)
    extent = (high - low).clamp(min=0)  # (O, 2)
    offsets = extent.new_zeros(corners.shape[0] + 1)
    offsets[1:] = extent.prod(dim=1).cumsum(0)
    owner = segment_ids(offsets, int(offsets[-1]))
    place = torch.arange(owner.shape[0], device=owner.device) - offsets[owner]
    columns = extent[owner, 0]
    return _Places(
        owner, low[owner, 1] + place // columns, low[owner, 0] + place % columns, offsets
    )


def _read(masks: Tensor, rows: Tensor, places: _Places, factor: int) -> Tensor:
    """Return (N,) bool: whether at least half of the ``factor`` x ``factor`` pixels are set."""
    _, height, width = masks.shape
    flat, start = masks.flatten(), rows[places.owner] * (height * width)
    count = torch.zeros_like(start)
    for offset in range(factor * factor):
        y = places.row * factor + offset // factor
        x = places.column * factor + offset % factor
        inside = (y < height) & (x < width)
        count += flat[(start + y * width + x).where(inside, 0)] & inside
    return 2 * count >= factor * factor


def _leave_to_smallest(targets: Tensor, cells: Tensor, places: _Places, total: int) -> Tensor:
    objects = places.offsets.shape[0] - 1
    area = segment_counts(places.owner, objects, targets)
    rank = torch.empty_like(area)
    rank[area.argsort(stable=True)] = torch.arange(objects, device=area.device)
    own = rank[places.owner].where(targets, objects)
    best = own.new_full((total,), objects).scatter_reduce(0, cells, own, "amin")
    return targets & (best[cells] == own)
