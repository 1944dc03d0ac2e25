"""Mask targets of objects at the prototype cells in the window of each object's box.

A cell is ``stride`` pixels wide and high. Windows have different sizes and are packed one after the
other, so that cost and memory scale with the area of the objects, not with their number times the
whole map.

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
        targets: (N,) bool, True where the cell belongs to the object's mask.
        offsets: (O + 1,) int64, object o has the cells ``offsets[o]:offsets[o + 1]``, none if its
            box is too small to contain a cell.
    """

    cells: Tensor
    targets: Tensor
    offsets: Tensor


class _Places(NamedTuple):
    """Positions of the cells of packed windows; owner, row and column are (N,) int64."""

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
    """Read the mask of each object at the cells in its box.

    A cell is in the window of box (x1, y1, x2, y2) if its column c fulfils x1 <= stride c < x2,
    and its row the same condition for y (A215). It is in the mask if at least half of its pixels
    are; pixels beyond the border count as outside (A214).

    Args:
        boxes: (O, 4) in pixels; parts outside the map are ignored.
        images: (O,) int64 in [0, B).
        masks: (M, H / mask_stride, W / mask_stride) bool.
        rows: (O,) int64, index of the mask of each object.
        size: (B, h, w) of the maps.
        stride: pixels per cell of the maps.
        mask_stride: pixels per cell of ``masks``.
        smallest_owns: assign a cell in several masks to the one with the fewest cells, the first
            of equal ones (A216); otherwise the cell belongs to all of them.

    Raises:
        ValueError: ``mask_stride`` does not divide ``stride``.
    """
    if stride % mask_stride:
        raise ValueError(
            f"mask_stride must divide the stride {stride} of the prototypes, got {mask_stride}"
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
    """List all cells that overlap boxes (O, 4), given in cells."""
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
    """Return (N,) bool, True if at least half of the ``factor`` x ``factor`` pixels are set."""
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
