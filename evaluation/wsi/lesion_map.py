"""Numbered lesions of a slide, as CAMELYON16 compares detections with them.

The organisers' procedure: the outlines are rastered at 7.776 um (level 5 of 0.243 um), grown by
37.5 um, which is half of five tumour cells, and their holes filled. Pixels that touch, also at a
corner, are one lesion. One whose major axis is then below 275 um is isolated tumour cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from formats.slides.geojson import Points, Polygon
from formats.slides.lesion_outlines import LesionOutlines

RASTER_UM = 7.776
MARGIN_UM = 37.5
ISOLATED_UM = 275.0
LARGEST = 1 << 27  # pixels, a square of 90 mm

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class LesionMap(NamedTuple):
    """Lesions of a slide on a raster of 7.776 um around them.

    Attributes:
        numbers: (H, W) the number of the lesion of each pixel, 0 outside of them.
        origin: pixel (x, y) of the whole slide's raster where it begins.
        major_axes_um: (L,) of lesion 1 to L, 4 times the larger standard deviation of its pixels.
        centres: (L, 2) mean (x, y) of their pixels, in pixels of level 0.
        pixel: side of a pixel, in pixels of level 0.
    """

    numbers: npt.NDArray[np.int32]
    origin: tuple[int, int]
    major_axes_um: npt.NDArray[np.float64]
    centres: npt.NDArray[np.float64]
    pixel: float

    @property
    def isolated(self) -> BoolArray:
        """(L,) whether the lesion is isolated tumour cells, which count neither way."""
        return self.major_axes_um < ISOLATED_UM

    def at(self, places: npt.NDArray[np.float64]) -> IntArray:
        """Return the number of the lesion at (N, 2) places (x, y) of level 0, 0 for none."""
        column, row = (np.floor(places / self.pixel).astype(np.int64) - self.origin).T
        height, width = self.numbers.shape
        inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
        found = np.zeros(len(places), dtype=np.int64)
        found[inside] = self.numbers[row[inside], column[inside]]
        return found


def lesion_map(outlines: LesionOutlines, mpp: float) -> LesionMap:
    """Return the numbered lesions of a slide.

    Args:
        outlines: see `LesionOutlines`; at least one lesion.
        mpp: micrometres per pixel of level 0.

    Raises:
        ValueError: the outlines are further apart than any slide is wide.
    """
    from scipy import ndimage

    pixel = RASTER_UM / mpp
    lesions = [[ring / pixel for ring in polygon] for polygon in outlines.lesions]
    points = np.concatenate([ring for polygon in lesions for ring in polygon])
    border = int(np.ceil(MARGIN_UM / RASTER_UM)) + 1
    # A slide begins at 0, so that nothing grows beyond; its other end is not known  # A641
    first = np.maximum(np.floor(points.min(axis=0)).astype(np.int64) - border, 0)
    width, height = np.floor(points.max(axis=0)).astype(np.int64) + border + 1 - first
    if min(width, height) < 1 or width * height > LARGEST:
        span = np.ptp(points, axis=0) * RASTER_UM / 1000
        raise ValueError(
            f"outlines that span {span[0]:.0f} x {span[1]:.0f} mm cannot be on one slide; give "
            "them in pixels of level 0, and its --mpp"
        )
    shape = (int(height), int(width))
    tumour = _raster(lesions, first, shape, keep=True)
    if outlines.cut_out:
        cut = [[ring / pixel for ring in polygon] for polygon in outlines.cut_out]
        tumour &= ~_raster(cut, first, shape, keep=False)
    if not tumour.any():
        none = np.zeros(0)
        return LesionMap(np.zeros((1, 1), np.int32), (0, 0), none, none.reshape(0, 2), pixel)
    numbers, count = ndimage.label(_without_holes(_grown(tumour)), np.ones((3, 3)))
    axes, centres = _moments(numbers, count)
    origin = (int(first[0]), int(first[1]))
    return LesionMap(numbers, origin, axes * RASTER_UM, (centres + first + 0.5) * pixel, pixel)


def _raster(
    polygons: Sequence[Polygon], first: IntArray, shape: tuple[int, int], *, keep: bool
) -> BoolArray:
    """Return the pixels whose centre is in a polygon; ``keep``: also those of tiny ones.

    Args:
        polygons: in pixels of the whole raster.
        first: pixel (x, y) where the part begins.
        shape: (height, width) of the part.
        keep: a polygon without any centre covers the pixels of its points.
    """
    covered = np.zeros(shape, dtype=np.bool_)
    for polygon in polygons:
        rings = [ring - first for ring in polygon]
        ends = np.floor([np.min(rings[0], axis=0), np.max(rings[0], axis=0)]).astype(np.int64)
        (left, top), (right, bottom) = np.clip(ends, 0, np.array(shape[::-1]) - 1)
        part = covered[top : bottom + 1, left : right + 1]
        inside = _even_odd([ring - (left, top) for ring in rings], part.shape)
        if keep and not inside.any():
            column, row = np.clip(
                np.floor(rings[0]).astype(np.int64), 0, np.array(shape[::-1]) - 1
            ).T
            covered[row, column] = True
        part |= inside
    return covered


def _even_odd(rings: Sequence[Points], shape: tuple[int, ...]) -> BoolArray:
    """Return (height, width) whether the rings are crossed an odd number of times on the left."""
    crossed = np.zeros((shape[0], shape[1] + 1), dtype=np.uint8)
    for ring in rings:
        start, end = ring, np.roll(ring, -1, axis=0)
        # rows whose centre is between both ends of an edge: [first, last)
        limits = np.ceil(np.stack([start[:, 1], end[:, 1]]) - 0.5)
        low, high = np.clip([limits.min(axis=0), limits.max(axis=0)], 0, shape[0]).astype(np.int64)
        edge = np.repeat(np.arange(len(ring)), high - low)
        within = np.arange(len(edge)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)
        row = low[edge] + within
        (x, y), (to_x, to_y) = start[edge].T, end[edge].T
        at = x + (row + 0.5 - y) * (to_x - x) / (to_y - y)
        column = np.clip(np.ceil(at - 0.5), 0, shape[1]).astype(np.int64)
        np.bitwise_xor.at(crossed, (row, column), 1)
    return np.bitwise_xor.accumulate(crossed[:, :-1], axis=1).astype(np.bool_)


def _grown(mask: BoolArray) -> BoolArray:
    """Return the pixels nearer than the margin to a pixel of the mask, centre to centre."""
    import cv2

    reach = MARGIN_UM / RASTER_UM
    steps = np.arange(-int(reach), int(reach) + 1)
    disc = (steps[:, None] ** 2 + steps**2 < reach**2).astype(np.uint8)
    grown: BoolArray = cv2.dilate(mask.astype(np.uint8), disc).astype(np.bool_)
    return grown


def _without_holes(mask: BoolArray) -> BoolArray:
    """Return the mask and what it encloses, along edges, as `scipy.ndimage.binary_fill_holes`.

    On whole slides it is four times as fast.
    """
    from scipy import ndimage

    background, count = ndimage.label(~mask)
    hole = np.ones(count + 1, dtype=np.bool_)
    for side in (background[0], background[-1], background[:, 0], background[:, -1]):
        hole[side] = False
    hole[0] = True  # the mask itself
    filled: BoolArray = hole[background]
    return filled


def _moments(
    numbers: npt.NDArray[np.int32], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (L,) major axes and (L, 2) mean places (x, y) of lesions 1 to L, in pixels."""
    places = np.argwhere(numbers)[:, ::-1].astype(np.float64)  # (x, y)
    lesion = numbers[numbers > 0] - 1
    area = np.bincount(lesion, minlength=count)
    centres = np.stack([np.bincount(lesion, p, count) / area for p in places.T], axis=1)
    apart = places - centres[lesion]
    (xx, xy), (_, yy) = [
        [np.bincount(lesion, apart[:, i] * apart[:, j], count) / area for j in range(2)]
        for i in range(2)
    ]
    larger = (xx + yy) / 2 + np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return 4 * np.sqrt(larger), centres
