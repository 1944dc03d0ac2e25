"""Maps of patch scores over a slide, and what is above a rank in them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_CHUNK = 1 << 21  # cells that are placed at once


class PatchMap(NamedTuple):
    """Scores at the pixels of a small image of a slide.

    Attributes:
        values: (H, W), 0 where no patch lies.
        cover: (H, W) share of each pixel that patches cover, in [0, 1].
    """

    values: Floats
    cover: Floats


class Place(NamedTuple):
    """Where a small image of a slide lies.

    Attributes:
        size: (H, W) of the image.
        downsample: pixels of level 0 per pixel of the image.
        origin: (x, y) at level 0 of the image's top-left corner.
    """

    size: tuple[int, int]
    downsample: float
    origin: tuple[float, float] = (0.0, 0.0)


def place_patches(scores: Array, coords: Array, side: float, place: Place) -> PatchMap:
    """Place each patch's score where the patch lies; where patches overlap, scores are averaged.

    A patch covers ``coords / downsample`` to ``(coords + side) / downsample``, not rounded: a pixel
    at its border counts with the share that the patch covers.  # A651

    Args:
        scores: (N,).
        coords: (N, 2) x and y of the top-left corners, in pixels of level 0.
        side: of a patch, in pixels of level 0, not rounded.
        place: where the map lies.

    Raises:
        ValueError: lengths differ, or the side is not positive.
    """
    values, corners = np.asarray(scores, np.float64), np.asarray(coords, np.float64)
    if values.ndim != 1 or corners.shape != (len(values), 2) or not side > 0:
        raise ValueError(
            f"a map needs scores (N,), coords (N, 2) and a positive side, got {values.shape}, "
            f"{corners.shape} and {side}"
        )
    height, width = place.size
    across, share_x = _cells((corners[:, 0] - place.origin[0]) / place.downsample, side, place)
    down, share_y = _cells((corners[:, 1] - place.origin[1]) / place.downsample, side, place)
    total, weight = np.zeros(height * width), np.zeros(height * width)
    step = max(1, _CHUNK // max(1, across.shape[1] ** 2))
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        x, y = across[part, None, :], down[part, :, None]
        shares = share_x[part, None, :] * share_y[part, :, None]  # (n, k, k)
        shares = np.where((x >= 0) & (x < width) & (y >= 0) & (y < height), shares, 0)
        cells = (np.clip(y, 0, height - 1) * width + np.clip(x, 0, width - 1)).ravel()
        weighted = (shares * values[part, None, None]).ravel()
        total += np.bincount(cells, weighted, minlength=height * width)
        weight += np.bincount(cells, shares.ravel(), minlength=height * width)
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return PatchMap(mean.reshape(height, width), np.minimum(weight, 1).reshape(height, width))


def _cells(start: Floats, side: float, place: Place) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return (N, k) the pixels along an axis that each patch may touch, and the share of each."""
    length = side / place.downsample
    count = int(np.ceil(length)) + 1
    cells = np.floor(start).astype(np.int64)[:, None] + np.arange(count)
    ends = np.minimum(cells + 1, (start + length)[:, None])
    return cells, np.maximum(ends - np.maximum(cells, start[:, None]), 0)


def ranks(scores: Array) -> Floats:
    """Return the rank of each score among the slide's patches, from 0, the lowest, to 1.

    Equal scores have the mean of their ranks; a patch alone has 0.5.

    >>> ranks(np.array([3.0, 1.0, 2.0, 2.0, 9.0])).tolist()
    [0.75, 0.0, 0.375, 0.375, 1.0]
    """
    from scipy.stats import rankdata

    values = np.asarray(scores, np.float64)
    if len(values) == 1:
        return np.array([0.5])
    found: Floats = (rankdata(values) - 1) / max(1, len(values) - 1)
    return found
