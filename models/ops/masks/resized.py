"""Run-length masks of the original image from coarse logits, by two resizes.

Logits are resized bilinearly to the padded image, cut to its valid part and resized bilinearly to
the original image; a pixel belongs to the mask if its logit is above 0. Both resizes are linear in
each axis, so that a pixel of an axis is a weighted sum of at most four cells of it. Only the window
around the positive cells is computed, one mask at a time and in column order as in run-length
encoding.

Letters: N masks, h x w cells, T cells per pixel of an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.precision import at_least_float32
from structures.rle import RLEMasks, encode_window

_EPSILON = 1e-6  # added to the area, as published


def resize_to_rle(
    maps: Tensor, padded: Sequence[int], valid: Sequence[int], size: Sequence[int]
) -> tuple[RLEMasks, Tensor]:
    """Encode the masks of one image at its own resolution.

    Args:
        maps: (N, h, w) logits.
        padded: (height, width) that the maps cover.
        valid: (height, width) of the image in it.
        size: (height, width) of the original image.

    Returns:
        N run-length masks of ``size``, and (N,) the mean probability of their pixels, 0 for an
        empty mask; both on the host.
    """
    maps = at_least_float32(maps.detach())
    positive = maps > 0
    row_spans, column_spans = _spans(positive.any(dim=2)), _spans(positive.any(dim=1))
    maps = maps.cpu()
    rows, columns = (
        _axis(maps.shape[1 + n], padded[n], valid[n], size[n], maps.dtype) for n in range(2)
    )
    height, width = size
    runs, quality = [], maps.new_zeros(len(maps))
    for number, (high, wide) in enumerate(zip(row_spans, column_spans, strict=True)):
        y, x = _window(rows, high), _window(columns, wide)
        logits = _resized(_resized(maps[number, y.cells, x.cells], y).T, x)  # (width, height)
        mask = logits > 0
        total = logits.sigmoid_().mul_(mask).sum()
        quality[number] = total / (mask.sum() + _EPSILON)
        runs.append(encode_window(mask.numpy().T, y.start, x.start, (height, width)))
    return RLEMasks.from_runs(runs, (height, width)), quality


class _Axis(NamedTuple):
    """Cells and weights of the n pixels of an axis, or of a window of it.

    Attributes:
        index: (n, T) int64, ascending in both directions.
        weights: (n, T).
        start: first pixel of the window.
        cells: cells of the window; ``index`` counts from the first.
    """

    index: Tensor
    weights: Tensor
    start: int
    cells: slice


def _axis(cells: int, padded: int, valid: int, size: int, dtype: torch.dtype) -> _Axis:
    """Return the weighted sums that both resizes of an axis are."""
    index, weights = _resize(cells, padded, dtype)
    if size != valid:
        outer, factors = _resize(valid, size, dtype)
        index = index[outer].flatten(1)
        weights = (weights[outer] * factors.unsqueeze(2)).flatten(1)
    return _Axis(index[:size], weights[:size], 0, slice(0, cells))


def _resize(old: int, new: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return index and weights (new, 2) of a bilinear resize, those that ``interpolate`` uses.

    Weights that are computed otherwise differ in rounding, and with them pixels of logits near 0.
    Marks that repeat every three cells give the weights: neighbours have different marks.
    """
    if old == new:
        index = torch.arange(old).unsqueeze(1)
        return index, torch.ones(old, 1, dtype=dtype)
    marks = F.one_hot(torch.arange(old) % 3, 3).T.to(dtype)
    seen = F.interpolate(marks[None], size=new, mode="linear")[0].T  # (new, 3)
    nearest = (((torch.arange(new).double() + 0.5) * old / new) - 0.5).round().long()
    nearest.clamp_(0, old - 1)
    before = seen.gather(1, ((nearest + 2) % 3).unsqueeze(1))[:, 0]
    low = nearest - (before > 0).long()
    index = torch.stack([low, low + 1], dim=1)
    weights = seen.gather(1, index % 3)
    return index.clamp(max=old - 1), weights


def _spans(positive: Tensor) -> list[tuple[int, int]]:
    """Return the first and the last + 1 position that is True in each row; (0, 0) for none."""
    number = positive.shape[1]
    first = positive.int().argmax(dim=1)
    last = number - positive.flip(1).int().argmax(dim=1)
    last = last.where(positive.any(dim=1), 0)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _window(axis: _Axis, span: tuple[int, int]) -> _Axis:
    """Return the pixels that a span of cells reaches, and all cells that they read."""
    low, high = axis.index[:, 0].contiguous(), axis.index[:, -1].contiguous()
    start, stop = (int(torch.searchsorted(*pair)) for pair in ((high, span[0]), (low, span[1])))
    start = min(start, stop)
    if start == stop:
        return _Axis(axis.index[:0], axis.weights[:0], 0, slice(0, 0))
    first, last = int(low[start]), int(high[stop - 1])
    index, weights = axis.index[start:stop] - first, axis.weights[start:stop]
    return _Axis(index, weights, start, slice(first, last + 1))


def _resized(values: Tensor, axis: _Axis) -> Tensor:
    """Return (n, k) weighted sums of the rows of (cells, k) values."""
    if not len(axis.index) or not values.shape[1]:
        return values.new_zeros(len(axis.index), values.shape[1])
    table = values.contiguous()
    return F.embedding_bag(axis.index, table, mode="sum", per_sample_weights=axis.weights)
