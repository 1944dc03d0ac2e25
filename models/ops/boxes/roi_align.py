"""RoIAlign over a feature pyramid (arXiv 1703.06870 sec. 3, arXiv 1612.03144 eq. 1).

An output cell is a weighted sum of cells of the map. On a CPU the sums of all regions and levels
are one ``embedding_bag`` over the map's cells as rows: forward and backward read and write whole
rows on all cores, where torchvision's operator visits features one by one and its backward pass
runs on one core. Other devices use torchvision's operator. Both are equal up to rounding.

Letters: R regions, F features, K cells per side of a pooled region, S sampling points per side of
such a cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from models.ops.boxes.boxes import fpn_levels
from models.ops.boxes.pyramid_rows import pyramid_rows
from models.ops.precision import at_least_float32

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
        rois: (R, 5) rows (image, x1, y1, x2, y2) in pixels.
        stride: pixels per cell of the first level, a power of 2.
        side: cells per side of a pooled region.
        sampling_ratio: sampling points per side of a cell, at least 1.
        canonical_size: side in pixels of a region that is pooled at stride 16.

    Returns:
        (R, F, side, side) of the dtype of the levels; in channels-last order on a CPU.
    """
    first = stride.bit_length() - 1
    level = fpn_levels(rois[:, 1:], first, first + len(levels) - 1, canonical_size)
    pool = row_roi_align if levels[0].device.type == "cpu" else _operator_by_level
    return pool(levels, level, rois, stride, side, sampling_ratio).to(levels[0].dtype)


def _operator_by_level(
    levels: Sequence[Tensor], level: Tensor, rois: Tensor, stride: int, side: int, ratio: int
) -> Tensor:
    dtype = _dtype(levels[0])
    pooled = levels[0].new_zeros(rois.shape[0], levels[0].shape[1], side, side, dtype=dtype)
    for number, features in enumerate(levels):
        where = (level == number).nonzero().flatten()
        if where.shape[0]:
            # in half precision coordinates above 256 would be rounded to whole pixels
            pooled[where] = roi_align(
                at_least_float32(features),
                rois[where].to(dtype),
                (side, side),
                1 / (stride << number),
                ratio,
            )
    return pooled


def row_roi_align(
    levels: Sequence[Tensor], level: Tensor, rois: Tensor, stride: int, side: int, ratio: int
) -> Tensor:
    """Compute ``torchvision.ops.roi_align`` (aligned=False) of all levels as sums of rows.

    Indices and weights take 12 * (2 S)^2 bytes per output cell, 192 for S = 2.

    Args:
        levels: (B, F, h, w) each, each at half the resolution of the one before.
        level: (R,) int64, the level of each region.
        rois: (R, 5) rows (image, x1, y1, x2, y2) in pixels.
        stride: pixels per cell of the first level.
        side: K.
        ratio: S, at least 1.

    Returns:
        (R, F, K, K) in channels-last order, float32 or float64.
    """
    rows, first, height, width = pyramid_rows(levels)
    corners = rois[:, 1:].to(_dtype(rows)) / (stride << level)[:, None]
    y, y_weight = _points(corners[:, 1], corners[:, 3], side, ratio, height[level])
    x, x_weight = _points(corners[:, 0], corners[:, 2], side, ratio, width[level])
    y = (rois[:, 0].long() * height[level])[:, None, None] + y
    y = first[level][:, None, None] + y * width[level][:, None, None]
    count = (2 * ratio) ** 2
    index = (y[:, :, None, :, None] + x[:, None, :, None, :]).view(-1, count)  # (R K K, 4 S S)
    weight = (y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]).view(-1, count)
    pooled = F.embedding_bag(index, at_least_float32(rows), per_sample_weights=weight, mode="sum")
    return pooled.view(-1, side, side, pooled.shape[1]).permute(0, 3, 1, 2)


def _points(
    start: Tensor, stop: Tensor, cells: int, ratio: int, length: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the map cells beside the sampling points along one axis and their weights.

    Points up to one cell outside the map take the border's value and points further out are 0;
    regions are at least one cell long. These and the order of the roundings are the operator's.

    Args:
        start: (R,) first edge of each region in cells of its map.
        stop: (R,) last edge.
        cells: K.
        ratio: S.
        length: (R,) cells of the map.

    Returns:
        Two tensors (R, K, 2 S): positions in [0, length), and weights that sum to at most 1.
    """
    size = (stop - start).clamp(min=1)[:, None, None] / cells
    steps = torch.arange(max(cells, ratio), device=start.device, dtype=start.dtype)
    points = (
        start[:, None, None] + steps[:cells, None] * size + (steps[:ratio] + 0.5) * size / ratio
    )
    last = (length - 1)[:, None, None]
    inside = (points >= -1) & (points <= last + 1)  # (R, K, S)
    points = torch.minimum(points.clamp(min=0), last.to(points.dtype)).where(inside, 0)
    low = points.long()
    part = points - low
    weights = torch.stack([1 - part, part], dim=-1) * (inside / ratio)[..., None]
    return torch.stack([low, (low + 1).minimum(last)], dim=-1).flatten(2), weights.flatten(2)


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
