"""Clipped polygons cover what the polygon covers inside the image, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from formats.coco.clipping import clip_points, clip_polygon

# The rasteriser of the COCO tools rounds corners to a fifth of a pixel, each coordinate by up to
# 0.1. Clipping moves the corners of an edge along it, so that the edge is rounded a second time:
# a pixel may differ only if its centre is within two such errors of an edge.
ROUNDING = 2 * 0.1 * 2**0.5


def masked(polygon, height, width):
    return coco_mask.decode(coco_mask.frPyObjects([polygon], height, width)).any(axis=2)


def covers(polygon, height, width):
    """Return which pixel centres a polygon covers by the even-odd rule."""
    corners = np.reshape(polygon, (-1, 2))
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    found = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        if y0 != y1:
            found ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return found


def distance_to_edges(points, polygon):
    corners = np.reshape(polygon, (-1, 2))
    nearest = np.full(len(points), np.inf)
    for a, b in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        along = np.clip((points - a) @ (b - a) / max(np.sum((b - a) ** 2), 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(points - a - along[:, None] * (b - a), axis=1))
    return nearest


@pytest.mark.parametrize(
    ("polygon", "expected"),
    [
        ([2, 2, 6, 2, 6, 6], [2, 2, 6, 2, 6, 6]),  # inside
        ([-4, 2, 4, 2, 4, 6, -4, 6], [0, 2, 4, 2, 4, 6, 0, 6]),  # left
        ([4, 4, 12, 4, 12, 14, 4, 14], [4, 10, 4, 4, 8, 4, 8, 10]),  # right and bottom
        ([-9, -9, 30, -9, 30, 30, -9, 30], [0, 10, 0, 0, 8, 0, 8, 10]),  # around the image
        ([20, 20, 30, 20, 30, 30], None),
        ([8, 0, 12, 0, 12, 10, 8, 10], None),  # touches the border from outside
        ([-1, -1, -1, 30, 30, 30, 30, 29, 0, 29, 0, -1], None),  # around a corner of the image
        ([7.9, 5, 9, 5, 9, 5.1, 7.9, 5.1], None),  # less than a pixel is inside
    ],
)
def test_by_hand(polygon, expected):
    found = clip_polygon(polygon, 10, 8)
    assert found == expected


corners = st.lists(
    st.tuples(*[st.floats(-60, 90, allow_subnormal=False)] * 2), min_size=3, max_size=9
)


@given(corners, st.integers(4, 40), st.integers(4, 40))
def test_the_same_is_covered_inside(points, height, width):
    polygon = [value for point in points for value in point]
    clipped = clip_points(np.array(points), width, height)
    assert (clipped >= 0).all() and (clipped <= (width, height)).all()
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    centres = np.stack([x, y], axis=-1).reshape(-1, 2)
    clear = (distance_to_edges(centres, polygon) > 1e-9).reshape(height, width)
    before = covers(polygon, height, width)
    after = covers(clipped, height, width) if len(clipped) else np.zeros_like(before)
    assert not (before != after)[clear].any()
    found = clip_polygon(polygon, height, width)
    mask = masked(polygon, height, width)
    ours = masked(found, height, width) if found else np.zeros_like(mask)
    rows, columns = np.nonzero(mask != ours)
    differing = np.stack([columns + 0.5, rows + 0.5], axis=1)
    assert (distance_to_edges(differing, polygon) < ROUNDING + 1e-9).all()


def test_coordinates_of_any_size():
    found = clip_polygon([-1e300, -1e300, 1e300, -1e300, 1e300, 1e300, -1e300, 1e300], 10, 8)
    assert sorted(zip(found[::2], found[1::2], strict=True)) == [(0, 0), (0, 10), (8, 0), (8, 10)]
