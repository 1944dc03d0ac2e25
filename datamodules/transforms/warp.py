"""Drawing of an image and its masks onto a canvas through the same matrix."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from datamodules.transforms.affine import Matrix, apply, is_upright, shift
from datamodules.transforms.cutouts import Cutout
from datamodules.transforms.hsv import ColourTable, change_colours
from datamodules.transforms.resize import ImageArray, resize_image, target_size

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Size = tuple[int, int]


class Warp(Protocol):
    """Mapping of the pixels of an image to the pixels of a canvas.

    Attributes:
        rows: rows of the canvas in which the image may be visible.
        columns: columns of the canvas in which the image may be visible.
        matrix: matrix from the image to the canvas after rounding.
    """

    rows: slice
    columns: slice
    matrix: Matrix

    def image(self, colours: ColourTable | None) -> ImageArray:
        """Return (r, c, 3), the image in those rows and columns, also beyond its border."""
        ...

    def inside(self) -> Bools | None:
        """Return (r, c), pixels whose centres are in the image; None if all are."""
        ...

    def cutout(self, cutout: Cutout) -> Cutout | None:
        """Return a mask of the image on the canvas, None if no pixel of it is left."""
        ...


def _span(factor: float, offset: float, old: int, new: int) -> tuple[slice, slice]:
    """Return which pixels of a line of length ``old`` cover which pixels of length ``new``.

    The ends are whole pixels on both sides, less than one pixel away from ``factor * x + offset``.
    The slices are empty if the line is beyond the canvas.
    """
    start, stop = offset, offset + factor * old
    first, last = max(0, round(start)), min(new, round(stop))
    if first >= last:
        return slice(0, 0), slice(0, 0)
    left = round((first - start) / factor) if start < 0 else 0
    right = round((last - start) / factor) if stop > new else old
    left = min(max(left, 0), old - 1)
    return slice(left, min(max(right, left + 1), old)), slice(first, last)


def _sampled(span: slice, count: int, reduced: int, full: int) -> Ints:
    """Return the (count,) indices of the pixels at evenly spread centres in a line.

    Args:
        span: pixels of the same line reduced to ``reduced``, over which the centres are spread.
        count: number of centres.
        reduced: length of the line to which ``span`` refers.
        full: length of the line whose pixels are returned.
    """
    number = np.arange(count)
    ends = 2 * count * span.start + (2 * number + 1) * (span.stop - span.start)
    parts = 2 * count * reduced  # of a pixel
    border = (ends * full) % parts == 0
    # centres on a border use both pixels in turn, so that masks do not drift, as in `resize_maps`
    return np.asarray((ends * full) // parts - (border & (number % 2 == 0)))


class _UprightWarp:
    """Resizing and mirroring of the visible part, with rows and columns handled separately.

    Args:
        image: (h, w, 3).
        size: (height, width) of the masks; ``image`` may be smaller, see `warp`.
        matrix: matrix from the pixels of ``image`` to the canvas.
        canvas: (height, width) of the canvas.
    """

    def __init__(self, image: ImageArray, size: Size, matrix: Matrix, canvas: Size) -> None:
        self._image = image
        self._flips = (bool(matrix[1, 1] < 0), bool(matrix[0, 0] < 0))
        self.matrix = np.diag([1.0, 1.0, 1.0])
        spans, places = [], []
        self._nearest: list[Ints] = []
        for axis in (0, 1):
            old, at = image.shape[axis], 1 - axis
            factor, offset = abs(matrix[at, at]), matrix[at, 2]
            if self._flips[axis]:
                offset -= factor * old
            span, place = _span(factor, offset, old, canvas[axis])
            count = place.stop - place.start
            if count and self._flips[axis]:
                span = slice(old - span.stop, old - span.start)
            spans.append(span)
            places.append(place)
            if count:
                self._set_axis(axis, size[axis] / old, span, place)
                self._nearest.append(_sampled(span, count, old, size[axis]))
        self._rows, self._columns = spans
        self.rows, self.columns = places

    def _set_axis(self, axis: int, reduced: float, span: slice, place: slice) -> None:
        """Store the factor and shift of the matrix after rounding the ends to whole pixels."""
        factor = (place.stop - place.start) / (span.stop - span.start)
        at, first = 1 - axis, span.start
        if self._flips[axis]:
            factor, first = -factor, span.stop
        self.matrix[at, at] = factor / reduced
        self.matrix[at, 2] = place.start - factor * first

    def image(self, colours: ColourTable | None) -> ImageArray:
        import cv2

        part = self._image[self._rows, self._columns]
        rows, columns = (x.stop - x.start for x in (self.rows, self.columns))
        grows = rows * columns > part.shape[0] * part.shape[1]
        if grows:  # change colours where there are fewer pixels
            part = change_colours(part, colours)
        if part.shape[:2] != (rows, columns):
            part = np.asarray(cv2.resize(part, (columns, rows), interpolation=cv2.INTER_LINEAR))
        if not grows:
            part = change_colours(part, colours)
        if any(self._flips):
            code = -1 if all(self._flips) else int(self._flips[1])
            part = np.asarray(cv2.flip(part, code))
        return part.astype(np.uint8, copy=False)

    def inside(self) -> Bools | None:
        return None

    def cutout(self, cutout: Cutout) -> Cutout | None:
        starts, picked = [], []
        edges = ((cutout.top, 0, self.rows), (cutout.left, 1, self.columns))
        for begin, axis, place in edges:
            line, length = self._nearest[axis], cutout.mask.shape[axis]
            first, last = np.searchsorted(line, (begin, begin + length)).tolist()
            chosen = line[first:last] - begin
            starts.append(place.start + first)
            if self._flips[axis]:
                starts[axis] = place.stop - last
                chosen = chosen[::-1]
            picked.append(chosen)
        mask = cutout.mask.take(picked[0], axis=0).take(picked[1], axis=1)
        return Cutout(mask, starts[0], starts[1]).tight()


class _GeneralWarp:
    """A projective map; see `_UprightWarp` for the arguments."""

    def __init__(self, image: ImageArray, size: Size, matrix: Matrix, canvas: Size) -> None:
        height, width = image.shape[:2]
        self._image, self._canvas, self._reduced = image, canvas, matrix
        self.matrix = matrix @ np.diag([width / size[1], height / size[0], 1.0])
        top, left, bottom, right = self._rectangle(matrix, (0, 0, height, width))
        self.rows, self.columns = slice(top, bottom), slice(left, right)

    def _rectangle(
        self, matrix: Matrix, box: tuple[int, int, int, int]
    ) -> tuple[int, int, int, int]:
        """Return the part of the canvas that (top, left, bottom, right) is mapped to."""
        top, left, bottom, right = box
        corners = np.array([[x, y] for x in (left, right) for y in (top, bottom)], dtype=float)
        if (corners @ matrix[2, :2] + matrix[2, 2]).min() <= 0:
            raise ValueError("a corner of the image has no image; lower mosaic.perspective")
        moved = apply(matrix, corners)
        low, high = np.floor(moved.min(axis=0)).astype(int), np.ceil(moved.max(axis=0)).astype(int)
        top, left = max(0, int(low[1])), max(0, int(low[0]))
        bottom, right = min(self._canvas[0], int(high[1])), min(self._canvas[1], int(high[0]))
        return top, left, max(top, bottom), max(left, right)

    def image(self, colours: ColourTable | None) -> ImageArray:
        return change_colours(self._draw(self._image, self._reduced, smooth=True), colours)

    def inside(self) -> Bools | None:
        ones = np.ones(self._image.shape[:2], dtype=np.uint8)
        return self._draw(ones, self._reduced).astype(bool)

    def _draw(
        self,
        source: npt.NDArray[np.uint8],
        matrix: Matrix,
        smooth: bool = False,
        place: tuple[int, int, int, int] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Draw a part of the canvas: bilinear with repeated border pixels, or nearest."""
        import cv2

        rows, columns = self.rows, self.columns
        top, left, bottom, right = place or (rows.start, columns.start, rows.stop, columns.stop)
        # cv2 counts pixel centres from 0
        centred = shift(-0.5 - left, -0.5 - top) @ matrix @ shift(0.5, 0.5)
        method, border = cv2.INTER_NEAREST, cv2.BORDER_CONSTANT
        if smooth:
            method, border = cv2.INTER_LINEAR, cv2.BORDER_REPLICATE
        area = (right - left, bottom - top)
        if centred[2, :2].any():
            done = cv2.warpPerspective(source, centred, area, flags=method, borderMode=border)
        else:
            done = cv2.warpAffine(source, centred[:2], area, flags=method, borderMode=border)
        return np.asarray(done, dtype=np.uint8)

    def cutout(self, cutout: Cutout) -> Cutout | None:
        rows, columns = cutout.mask.shape
        box = (cutout.top, cutout.left, cutout.top + rows, cutout.left + columns)
        place = self._rectangle(self.matrix, box)
        if place[0] >= place[2] or place[1] >= place[3]:
            return None
        matrix = self.matrix @ shift(cutout.left, cutout.top)
        mask = self._draw(cutout.mask.view(np.uint8), matrix, place=place).view(np.bool_)
        return Cutout(mask, place[0], place[1]).tight()


def warp(image: ImageArray, matrix: Matrix, canvas: Size) -> Warp | None:
    """Return the mapping that draws an image and its masks onto a canvas.

    Images are interpolated bilinearly; masks take the nearest pixel. An image that shrinks to less
    than half is first averaged to avoid aliasing. Without rotation, shear and perspective the ends
    of the visible part are rounded to whole pixels in image and canvas, which moves nothing by more
    than a pixel (A226).

    Args:
        image: (h, w, 3) uint8.
        matrix: maps pixels of the image to pixels of the canvas.
        canvas: (height, width) of the canvas.

    Returns:
        The mapping, or None if no part of the image is on the canvas.

    Raises:
        ValueError: the perspective is so strong that a corner has no image.
    """
    size = (image.shape[0], image.shape[1])
    factor = float(np.linalg.norm(matrix[:2, :2], axis=0).max())
    if factor < 0.5:
        smaller = target_size(size, None, factor, None)
        image = resize_image(image, smaller)
        matrix = matrix @ np.diag([size[1] / smaller[1], size[0] / smaller[0], 1.0])
    kind = _UprightWarp if is_upright(matrix) else _GeneralWarp
    made = kind(image, size, matrix, canvas)
    seen = made.rows.start < made.rows.stop and made.columns.start < made.columns.stop
    return made if seen else None
