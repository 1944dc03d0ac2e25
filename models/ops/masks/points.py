"""Random points on masks and the values of maps at them (PointRend, arXiv 1912.08193).

A mask loss at a few thousand points needs a fraction of the memory of one at all pixels. Three
quarters of the points are where a prediction is least certain among three times as many, the
others are uniform.

Points are hashes of keys. Each image has one table of uniform points, which every use of it moves
by an offset of its own, (x + offset) mod 1: every point is uniform, the points of a use are
independent of each other and so are those of any two uses, at the price of one addition (A541).

Letters: N masks, P points, Q maps, h x w cells.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.bilinear import neighbours
from structures.keyed_words import STEP, mix, uniform

_COPIED = 1 << 22  # cells of masks that are converted to float together
_HIGH_BITS, _LOW_BITS = 41, 18  # two disjoint groups of 23 bits of a word


def keyed_points(words: Tensor, number: int) -> Tensor:
    """Return uniform points in the unit square for each word.

    Args:
        words: (...) int64, hashes of keys.
        number: of points per word.

    Returns:
        (..., number, 2) float32 in (0, 1).
    """
    steps = torch.arange(number, device=words.device) * STEP
    return _pairs(mix(words.unsqueeze(-1) + steps))


def moved_points(points: Tensor, words: Tensor, share: Tensor) -> Tensor:
    """Move points by an offset for each word, modulo 1, and scale them to a part of the map.

    Args:
        points: (P, 2), or (N, P, 2), uniform in [0, 1).
        words: (N,) int64, hashes of keys.
        share: (2,), or (N, 2), width and height of the part.

    Returns:
        (N, P, 2) in [0, share).
    """
    moved = points + _pairs(mix(words)).unsqueeze(1)
    return moved.frac_().mul_(share.unsqueeze(-2))


def uncertain_points(
    maps: Tensor, candidates: Tensor, uniform_points: Tensor, number: int
) -> Tensor:
    """Choose the candidates at which a map is closest to 0, and add other points.

    Args:
        maps: (N, h, w) logits.
        candidates: (N, R, 2) in [0, 1].
        uniform_points: (N, U, 2), which are added without a choice.
        number: of candidates that are chosen, at most R.

    Returns:
        (N, number + U, 2), without a gradient.
    """
    with torch.no_grad():
        certainty = sample_maps(maps, candidates).abs_()
        best = _smallest(certainty, number)
        chosen = candidates.gather(1, best.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat([chosen, uniform_points], dim=1)


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Interpolate each map at its own points.

    Args:
        maps: (N, h, w) float.
        points: (N, P, 2), (x, y) in [0, 1] of the map.

    Returns:
        (N, P), with a gradient for the maps.
    """
    grid = (2 * points).sub_(1).to(maps.dtype)
    return F.grid_sample(maps.unsqueeze(1), grid.unsqueeze(2), align_corners=False)[:, 0, :, 0]


def sample_shared(maps: Tensor, points: Tensor, valid: Tensor | None = None) -> Tensor:
    """Interpolate all maps at the same points.

    Args:
        maps: (Q, h, w) float.
        points: (P, 2), (x, y) in [0, 1] of the maps.
        valid: (h, w) bool, cells that are not 0; all by default.

    Returns:
        (P, Q), points first.
    """
    height, width = maps.shape[1:]
    x, y = (neighbours(points[:, axis] * size, size) for axis, size in enumerate((width, height)))
    cells = (y.cells.unsqueeze(2) * width + x.cells.unsqueeze(1)).flatten(1)  # (P, 4)
    weights = (y.weights.unsqueeze(2) * x.weights.unsqueeze(1)).flatten(1)
    if valid is not None:
        weights = weights * valid.flatten()[cells]
    table = maps.flatten(1).t().contiguous()  # rows of a cell are read as a whole
    weights = weights.to(table.dtype)
    return F.embedding_bag(cells, table, mode="sum", per_sample_weights=weights)


def sample_masks(masks: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """Interpolate masks, a few at a time, so that no float copy of all of them is made.

    Args:
        masks: (M, h, w) bool.
        rows: (N,) int64, masks to read.
        points: (N, P, 2) or, for points that all share, (P, 2); (x, y) in [0, 1] of the masks.

    Returns:
        (N, P) of the dtype of the points.
    """
    step = max(1, _COPIED // max(1, masks.shape[1] * masks.shape[2]))
    found = points.new_empty(len(rows), points.shape[-2])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        maps = masks[rows[part]].to(points.dtype)
        if points.dim() == 2:
            grid = (2 * points).sub_(1)[None, :, None]
            found[part] = F.grid_sample(maps[None], grid, align_corners=False)[0, :, :, 0]
        else:
            found[part] = sample_maps(maps, points[part])
    return found


def _pairs(words: Tensor) -> Tensor:
    """Return two uniform numbers of each word, (..., 2) float32."""
    return torch.stack([uniform(words, _HIGH_BITS), uniform(words, _LOW_BITS)], dim=-1)


def _smallest(values: Tensor, number: int) -> Tensor:
    """Return the positions of the smallest values of each row, (N, number) in any order."""
    if values.device.type != "cpu" or not 0 < number < values.shape[1]:
        return values.topk(number, dim=1, largest=False, sorted=False).indices
    # measured: a quarter of the time of topk
    order = np.argpartition(values.numpy(), number - 1, axis=1)
    return torch.from_numpy(order[:, :number])
