"""RoIAlign over a feature pyramid (arXiv 1703.06870 sec. 3, arXiv 1612.03144 eq. 1).

torchvision's operator iterates over sampling points and its backward pass runs on one CPU core. A
bilinear sample is a product of a row weight and a column weight, so averaging the points of a
cell is two matrix products: out[p, q] = sum_y sum_x row[p, y] * map[y, x] * column[q, x]. Forward
and backward together, these are several times faster on small maps on a CPU; in all other cases,
and without gradients, torchvision's operator is used. Both are equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from models.ops.boxes.boxes import fpn_levels
from models.ops.precision import at_least_float32

_DENSE_CELLS = 2048  # cells per sampling point up to which products are faster (measured, 1 core)
_MASK_BYTES = 128 << 20  # copies of masks that exist at the same time


def pool_regions(
    levels: Sequence[Tensor],
    rois: Tensor,
    stride: int,
    side: int,
    sampling_ratio: int,
    canonical_size: float = 224.0,
) -> Tensor:
    """Pool each region from the level that corresponds to its size.

    Args:
        levels: (B, F, h, w) each, finest first, each at half the resolution of the one before.
        rois: (R, 5) rows (image, x1, y1, x2, y2) in pixels, images in order.
        stride: pixels per cell of the first level, a power of 2.
        side: cells per side of a pooled region.
        sampling_ratio: sampling points per side of a cell, at least 1.
        canonical_size: side in pixels of a region that is pooled at stride 16.

    Returns:
        (R, F, side, side) of the dtype of the levels.
    """
    first = stride.bit_length() - 1
    level = fpn_levels(rois[:, 1:], first, first + len(levels) - 1, canonical_size)
    pooled = levels[0].new_zeros(rois.shape[0], levels[0].shape[1], side, side)
    for number, features in enumerate(levels):
        where = (level == number).nonzero().flatten()
        if where.shape[0] == 0:
            continue
        scale = 1 / (stride << number)
        pooled[where] = _align(features, rois[where], scale, side, sampling_ratio).to(pooled.dtype)
    return pooled


def _align(features: Tensor, rois: Tensor, scale: float, side: int, ratio: int) -> Tensor:
    small = features.shape[-2] * features.shape[-1] <= _DENSE_CELLS * ratio
    if small and features.device.type == "cpu" and features.requires_grad:
        return separable_roi_align(features, rois, scale, side, ratio)
    # in half precision coordinates above 256 would be rounded to whole pixels
    aligned: Tensor = roi_align(
        at_least_float32(features), rois.to(_dtype(features)), (side, side), scale, ratio
    )
    return aligned


def separable_roi_align(
    features: Tensor, rois: Tensor, scale: float, side: int, sampling_ratio: int
) -> Tensor:
    """Compute ``torchvision.ops.roi_align`` (aligned=False) as matrix products.

    Args:
        features: (B, F, h, w).
        rois: (R, 5) rows (image, x1, y1, x2, y2) in pixels, images in order.
        scale: cells per pixel.
        side: cells per side of the output.
        sampling_ratio: sampling points per side of a cell, at least 1.

    Returns:
        (R, F, side, side) float32 or float64.
    """
    batch, channels, height, width = features.shape
    corners = rois[:, 1:].to(_dtype(features)) * scale
    column = _cell_weights(corners[:, 0], corners[:, 2], side, sampling_ratio, width)
    row = _cell_weights(corners[:, 1], corners[:, 3], side, sampling_ratio, height)
    counts = rois[:, 0].long().bincount(minlength=batch).tolist()
    parts = []
    with torch.autocast(features.device.type, enabled=False):
        by_row = (
            at_least_float32(features).permute(0, 2, 1, 3).reshape(batch, height, channels * width)
        )
        for image, rows, columns in zip(
            by_row, torch.split(row, counts), torch.split(column, counts), strict=True
        ):
            regions = rows.shape[0]
            mixed = rows.reshape(regions * side, height) @ image  # (R side, F w)
            mixed = mixed.view(regions, side * channels, width) @ columns.transpose(1, 2)
            parts.append(mixed.view(regions, side, channels, side).transpose(1, 2))
    return torch.cat(parts)


def _cell_weights(start: Tensor, stop: Tensor, cells: int, ratio: int, length: int) -> Tensor:
    """Return the weight of each map cell in each output cell along one axis, (R, cells, length).

    Points up to one cell outside the map take the border's value and points further out are 0;
    regions are at least one cell long. All three are conventions of the operator.
    """
    steps = torch.arange(cells * ratio, device=start.device, dtype=start.dtype) + 0.5
    points = start[:, None] + (stop - start).clamp(min=1)[:, None] * (steps / (cells * ratio))
    inside = (points >= -1) & (points <= length)
    places = torch.arange(length, device=start.device)
    distance = (points.clamp(0, length - 1)[..., None] - places).abs()
    weights = (1 - distance).clamp(min=0) * inside[..., None]
    return weights.view(-1, cells, ratio, length).mean(dim=2)


def _dtype(features: Tensor) -> torch.dtype:
    """Return the data type used for pooling."""
    return torch.promote_types(features.dtype, torch.float32)


def project_masks(
    masks: Tensor, rows: Tensor, boxes: Tensor, side: int, mask_stride: int
) -> Tensor:
    """Crop instance masks to boxes and resample them to side x side cells by RoIAlign.

    The operator needs floating-point masks: few are converted at a time, so that the copies take
    128 MiB at most (or one mask, where that is more).

    Args:
        masks: (M, h, w) bool, ``mask_stride`` pixels per cell.
        rows: (K,) index of the mask of each box.
        boxes: (K, 4) in pixels.
        side: cells per side.
        mask_stride: pixels per cell of ``masks``.

    Returns:
        (K, side, side) in [0, 1], of the dtype of ``boxes``.
    """
    # torchvision's RoIAlign puts the centre of pixel c at c; a cell's centre is then (s - 1) / 2
    # pixels to the right of s * c
    shifted = boxes - (mask_stride - 1) / 2
    used, position, shares = torch.unique(rows, return_inverse=True, return_counts=True)
    cells = masks.shape[1] * masks.shape[2]
    each = max(1, _MASK_BYTES // max(1, cells * (masks.element_size() + boxes.element_size())))
    counts = shares.tolist()
    sizes = [sum(counts[start : start + each]) for start in range(0, len(counts), each)]
    targets = boxes.new_empty(len(rows), side, side)
    for number, where in enumerate(torch.split(position.argsort(), sizes)):
        some = used[number * each : (number + 1) * each]
        image = (position[where] - number * each).to(boxes.dtype)
        rois = torch.cat([image[:, None], shifted[where]], dim=1)
        targets[where] = _crop(masks[some][:, None].to(boxes.dtype), rois, side, mask_stride)
    return targets


def _crop(masks: Tensor, rois: Tensor, side: int, mask_stride: int) -> Tensor:
    """Return (R, side, side) for masks (N, 1, h, w) and rows (mask, x1, y1, x2, y2) in pixels."""
    cropped: Tensor = roi_align(masks, rois, (side, side), spatial_scale=1 / mask_stride)
    return cropped[:, 0]
