"""Mask loss of prototypes and coefficients (YOLACT, Bolya et al. 2019, arXiv 1904.02689, sec. 3.1).

A mask is sigmoid(coefficients @ prototypes) (eq. 1), and its loss is the binary cross-entropy in
the object's box. A direct implementation multiplies every positive with the whole map and discards
the cells outside the box. Here the cells of each window are gathered once for all anchors of an
object, in tiles of equal size, and multiplied tile by tile; the derivative of the loss is stored,
so that the backward pass needs neither logits nor gathered prototypes.

Letters: B images, E prototypes, h x w cells, O objects, P positives, K the largest number of
positives of an object, Q tiles of T cells.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ops.bags.ragged import segment_counts, segment_ids
from models.ops.masks.windows import MaskWindows
from models.ops.precision import at_least_float32

_TILE = 32  # cells that are multiplied together (measured: fewer are slow, more are padding)
_NOTHING = -1e4  # logit of padding: loss and derivative are exactly 0
_CHUNK = 1 << 21  # values gathered per chunk


def window_mask_losses(
    coefficients: Tensor, prototypes: Tensor, objects: Tensor, windows: MaskWindows
) -> Tensor:
    """Return each positive's binary cross-entropy, summed over the cells of its object's window.

    Args:
        coefficients: (P, E).
        prototypes: (B, E, h, w).
        objects: (P,) int64 in [0, O), ascending.
        windows: windows of the O objects on the same maps.

    Returns:
        (P,), at least float32; 0 for a window without cells. Both inputs get a gradient, zero if
        there are no positives. There is no second derivative.
    """
    by_cell = at_least_float32(prototypes).permute(0, 2, 3, 1).reshape(-1, prototypes.shape[1])
    tiles = _tiles(objects, windows)
    coefficients = at_least_float32(coefficients).to(by_cell.dtype)
    losses: Tensor = _WindowLosses.apply(  # type: ignore[no-untyped-call]
        coefficients, by_cell, objects, tiles, windows
    )
    return losses


class _Tiles(NamedTuple):
    """Windows of objects with a positive, cut into tiles.

    Attributes:
        owner: (Q,) int64 in [0, O).
        start: (Q,) int64 first cell in the packed list.
        slot: (P,) int64 in [0, K), index of a positive among the positives of its object.
        width: K.
    """

    owner: Tensor
    start: Tensor
    slot: Tensor
    width: int


def _tiles(objects: Tensor, windows: MaskWindows) -> _Tiles:
    total = windows.offsets.shape[0] - 1
    positives = segment_counts(objects, total)
    slot = torch.arange(objects.shape[0], device=objects.device)
    slot = slot - (positives.cumsum(0) - positives)[objects]
    count = (-(-windows.offsets.diff() // _TILE)).where(positives > 0, 0)
    offsets = count.new_zeros(total + 1)
    offsets[1:] = count.cumsum(0)
    number, width = torch.stack([offsets[-1], slot.max() + 1 if len(slot) else offsets[0]]).tolist()
    owner = segment_ids(offsets, number)
    place = torch.arange(number, device=owner.device) - offsets[owner]
    return _Tiles(owner, windows.offsets[owner] + _TILE * place, slot, width)


class _WindowLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        coefficients: Tensor,
        by_cell: Tensor,
        objects: Tensor,
        tiles: _Tiles,
        windows: MaskWindows,
    ) -> Tensor:
        total, width = windows.offsets.shape[0] - 1, tiles.width
        table = coefficients.new_zeros(total, width, coefficients.shape[1])
        table[objects, tiles.slot] = coefficients
        sums = table.new_zeros(total, width)
        wanted = any(ctx.needs_input_grad[:2])
        by_logit = table.new_empty((tiles.owner.shape[0] if wanted else 0), _TILE, width)
        unit = torch.zeros_like(table)
        with torch.autocast(table.device.type, enabled=False):
            for part in _chunks(tiles, table):
                owner = tiles.owner[part]
                cells, targets, valid = _cells_of(tiles.start[part], owner, windows)
                rows = by_cell.index_select(0, cells.flatten()).view(*cells.shape, -1)
                logits = rows @ table[owner].transpose(1, 2)  # (q, T, K)
                logits.masked_fill_(~valid, _NOTHING)
                there = targets.to(logits.dtype)
                loss = F.softplus(logits).addcmul_(logits, there, value=-1)
                sums.index_add_(0, owner, loss.sum(dim=1))
                if wanted:
                    by_logit[part] = logits.sigmoid_().sub_(there)
                    unit.index_add_(0, owner, by_logit[part].transpose(1, 2) @ rows)
        ctx.save_for_backward(unit, table, by_logit, objects, *tiles[:3], *windows)
        ctx.width, ctx.cells = width, by_cell.shape
        return sums[objects, tiles.slot]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        unit, table, by_logit, objects, *rest = ctx.saved_tensors
        owner, start, slot, *window = rest
        tiles, windows = _Tiles(owner, start, slot, ctx.width), MaskWindows(*window)
        by_coefficient = unit[objects, tiles.slot] * gradients[0].unsqueeze(1)
        if not ctx.needs_input_grad[1]:
            return by_coefficient, None, None, None, None
        weighted = torch.zeros_like(table)  # coefficients times incoming gradients
        weighted[objects, tiles.slot] = table[objects, tiles.slot] * gradients[0].unsqueeze(1)
        by_cell = table.new_zeros(ctx.cells)
        with torch.autocast(table.device.type, enabled=False):
            for part in _chunks(tiles, table):
                owner = tiles.owner[part]
                cells, _, _ = _cells_of(tiles.start[part], owner, windows)
                by_row = by_logit[part] @ weighted[owner]  # (q, T, E)
                by_cell.index_add_(0, cells.flatten(), by_row.flatten(0, 1))
        return by_coefficient, by_cell, None, None, None


def _chunks(tiles: _Tiles, table: Tensor) -> list[slice]:
    """Split the tiles into chunks of bounded memory."""
    _, width, channels = table.shape
    step = max(1, _CHUNK // (_TILE * (channels + 3 * width)))
    return [slice(start, start + step) for start in range(0, tiles.owner.shape[0], step)]


def _cells_of(start: Tensor, owner: Tensor, windows: MaskWindows) -> tuple[Tensor, Tensor, Tensor]:
    """Return cells (q, T), targets (q, T, 1) and a mask of those that are not padding (q, T, 1)."""
    place = start.unsqueeze(1) + torch.arange(_TILE, device=start.device)
    last = windows.offsets[owner + 1].unsqueeze(1)
    valid = place < last
    place = torch.minimum(place, last - 1)
    targets = windows.targets[place] & valid
    return windows.cells[place], targets.unsqueeze(2), valid.unsqueeze(2)
