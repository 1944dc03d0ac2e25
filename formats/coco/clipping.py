"""Clipping of polygons to a rectangle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
_FARTHEST = 1e12  # pixels; keeps differences of coordinates finite


def clip_points(points: Points, width: float, height: float) -> Points:
    """Return the part of a closed polygon inside [0, width] x [0, height].

    The sides of the rectangle cut one after the other (Sutherland and Hodgman, 1974). Where the
    polygon leaves the rectangle and returns, the result runs along the border; such a piece has no
    area, so the result covers the same area as the polygon inside.

    Args:
        points: (n, 2) corners (x, y).
        width: largest x.
        height: largest y.

    Returns:
        (m, 2), possibly none. Corners inside are unchanged.

    >>> clip_points(np.array([[-2.0, 0.0], [2.0, 0.0], [2.0, 4.0]]), 8, 8).tolist()
    [[0.0, 2.0], [0.0, 0.0], [2.0, 0.0], [2.0, 4.0]]
    """
    for axis, limit, sign in ((0, 0.0, 1.0), (0, width, -1.0), (1, 0.0, 1.0), (1, height, -1.0)):
        if len(points):
            points = _cut(points, axis, limit, sign)
    return points


def _cut(points: Points, axis: int, limit: float, sign: float) -> Points:
    """Keep what lies on one side of a line; ``sign`` is 1 to keep larger coordinates."""
    before = np.roll(points, 1, axis=0)
    here, there = sign * (points[:, axis] - limit), sign * (before[:, axis] - limit)
    crosses = (here < 0) != (there < 0)
    span = np.where(crosses, there - here, 1.0)
    crossings = before + (points - before) * (there / span)[:, None]
    crossings[:, axis] = limit
    # each edge gives its crossing, then its end
    both = np.stack([crossings, points], axis=1).reshape(-1, 2)
    kept: Points = both[np.stack([crosses, here >= 0], axis=1).reshape(-1)]
    return kept


def clip_polygon(polygon: Sequence[float], height: int, width: int) -> list[float] | None:
    """Return the part of a polygon inside an image; None if it does not cover a pixel there.

    Args:
        polygon: x1, y1, x2, y2, ... in pixels.
        height: height of the image.
        width: width of the image.
    """
    from pycocotools import mask as coco_mask

    corners = np.clip(np.array(polygon, dtype=np.float64), -_FARTHEST, _FARTHEST).reshape(-1, 2)
    clipped: list[float] = clip_points(corners, width, height).reshape(-1).tolist()
    if len(clipped) < 6:
        return None
    covers = int(coco_mask.area(coco_mask.frPyObjects([clipped], height, width)[0]))
    return clipped if covers else None
