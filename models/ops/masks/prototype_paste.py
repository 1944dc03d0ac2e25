"""Conversion of prototypes and coefficients to run-length masks (YOLACT, arXiv 1904.02689).

A mask's logits are coefficients @ prototypes (eq. 1 before the sigmoid), resized to the original
resolution of the image by bilinear interpolation; a pixel belongs to the mask if its logit is above
0. Only the window of the box is computed, in column order as in run-length encoding. Pixel X of an
image of width W that the network processed at width w has its centre at the prototype coordinate

    u(X) = (X + 1/2) (w / W) / stride - 1/2      (cell c has its centre at c)

clamped between the first and the last cell that covers the image, so that padding has no effect
(A220).

Letters: K masks, P prototypes, h x w cells, H x W pixels.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from models.ops.precision import at_least_float32
from structures.rle import RLEMasks, Runs, Size, encode_window

MaskCrop = Literal["after", "before"]
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]


class _Axis(NamedTuple):
    """Interpolation weights of the pixels of one axis, and the windows of K boxes on it.

    Attributes:
        low: (W,) cell at or before the centre of each pixel; ascending.
        weight: (W,) weight of the next cell, in [0, 1].
        pixels: K pairs, start and stop of the pixels to compute.
        cells: K pairs, start and stop of the cells to compute.
    """

    low: Ints
    weight: Floats
    pixels: list[list[int]]
    cells: list[list[int]]


def paste_prototypes(
    prototypes: Tensor,
    coefficients: Tensor,
    boxes: Tensor,
    valid: Size,
    size: Size,
    *,
    stride: int = 4,
    crop: MaskCrop = "after",
) -> RLEMasks:
    """Encode the masks of one image at its own resolution.

    Args:
        prototypes: (P, h, w) float.
        coefficients: (K, P) float.
        boxes: (K, 4) float, finite, pixels of the original image; parts outside are cut off. A
            box without a pixel's centre has an empty mask.
        valid: (height, width) of the image as processed by the network, without padding.
        size: (height, width) of the original image.
        stride: pixels of the network's image per cell.
        crop: ``after``: logits are interpolated, then pixels whose centre is outside the box are
            removed; ``before``: cells outside the box (as in the mask loss, A215) are set to zero
            before the interpolation, and masks may extend up to a cell beyond the box.

    Returns:
        K run-length masks of ``size``.
    """
    if not len(boxes):
        return RLEMasks.from_runs([], size)
    maps = at_least_float32(prototypes.detach()).permute(2, 1, 0).contiguous().cpu().numpy()
    factors = at_least_float32(coefficients.detach()).cpu().numpy()
    corners = boxes.detach().cpu().double().numpy()
    rows = _axis(corners[:, 1::2], valid[0], size[0], stride, crop)
    columns = _axis(corners[:, 0::2], valid[1], size[1], stride, crop)
    border = int(crop == "before")
    return RLEMasks.from_runs(
        (_encode(maps, factors[k], rows, columns, k, border, size) for k in range(len(factors))),
        size,
    )


def _axis(sides: Floats, valid: int, size: int, stride: int, crop: MaskCrop) -> _Axis:
    """Return the description of one axis; ``sides`` (K, 2) are the low and high box sides."""
    cells = -(-valid // stride)
    ratio = valid / size
    place = ((np.arange(size) + 0.5) * ratio / stride - 0.5).clip(0, cells - 1)
    low = np.minimum(place.astype(np.int64), max(cells - 2, 0))
    if crop == "after":
        pixels = np.ceil(sides - 0.5).clip(0, size).astype(np.int64)
        seen = low[np.stack([pixels[:, 0], pixels[:, 1] - 1], axis=1).clip(0, size - 1)]
        read = np.add(seen, [0, 2]).clip(max=cells)
    else:
        read = np.ceil(sides * (ratio / stride)).clip(0, cells).astype(np.int64)
        pixels = np.searchsorted(low, np.subtract(read, [1, 0]))  # low or next cell is inside
    weight = (place - low).astype(np.float32)
    return _Axis(low, weight, pixels.tolist(), read.tolist())


def _encode(
    maps: Floats, factors: Floats, rows: _Axis, columns: _Axis, k: int, border: int, size: Size
) -> Runs:
    """Encode one mask; ``maps`` is (w, h, P), ``border`` the zero cells around the window."""
    (top, bottom), (left, right) = rows.pixels[k], columns.pixels[k]
    (first_row, end_row), (first, end) = rows.cells[k], columns.cells[k]
    if top >= bottom or left >= right or first_row >= end_row or first >= end:
        return np.array([size[0] * size[1]], dtype=np.int64)
    logits: Floats = maps[first:end, first_row:end_row] @ factors
    if border:
        logits = np.pad(logits, border)
    logits = _interpolate(logits.T, rows, slice(top, bottom), first_row - border)  # (H, w)
    full = _interpolate(logits.T, columns, slice(left, right), first - border)  # (W, H)
    return encode_window((full > 0).T, top, left, size)


def _interpolate(values: Floats, axis: _Axis, pixels: slice, start: int) -> Floats:
    """Interpolate (cells, n) to (pixels, n); ``start`` is the index of the first cell."""
    low = axis.low[pixels] - start
    high = np.minimum(low + 1, len(values) - 1)  # clamped only where the weight is 0
    lower = values[low]
    lower += (values[high] - lower) * axis.weight[pixels, None]
    return lower
