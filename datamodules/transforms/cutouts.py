"""Masks cropped to the rectangles that they occupy, one array per object.

On a canvas of many images each object covers a small part: cutouts can be moved, covered and
counted without processing the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.transforms.label_maps import LabelMaps, Targets, mask_cells

Bools = npt.NDArray[np.bool_]


class Cutout(NamedTuple):
    """A mask that is zero outside a window.

    Attributes:
        mask: (r, c) bool.
        top: row of its first pixel.
        left: column of its first pixel.
    """

    mask: Bools
    top: int
    left: int

    @property
    def place(self) -> tuple[slice, slice]:
        """The rows and columns of the window."""
        rows, columns = self.mask.shape
        return slice(self.top, self.top + rows), slice(self.left, self.left + columns)

    def tight(self) -> Cutout | None:
        """Return the mask without empty rows and columns at its sides; None if it is empty."""
        rows: Bools = np.asarray(self.mask.any(axis=1))
        columns: Bools = np.asarray(self.mask.any(axis=0))
        if not rows.size or not columns.size:
            return None
        top, left = int(rows.argmax()), int(columns.argmax())
        if not rows[top]:
            return None
        bottom, right = (
            rows.size - int(rows[::-1].argmax()),
            columns.size - int(columns[::-1].argmax()),
        )
        return Cutout(self.mask[top:bottom, left:right], self.top + top, self.left + left)


def cut_out(maps: LabelMaps) -> list[Cutout | None]:
    """Return the mask of each instance, None for instances without a pixel."""
    cutouts: list[Cutout | None] = []
    layers, values = maps.layers.tolist(), maps.values.tolist()
    for layer, value, window in zip(layers, values, maps.windows(), strict=True):
        if window is None:
            cutouts.append(None)
            continue
        mask = maps.maps[layer][window] == value
        cutouts.append(Cutout(mask, window[0].start, window[1].start))
    return cutouts


def join_cutouts(cutouts: Sequence[Cutout], size: tuple[int, int]) -> LabelMaps:
    """Return the masks of an image of (height, width) as label maps, in the same order."""
    return LabelMaps.from_windows([(c.mask, c.place) for c in cutouts], size)


def cutout_targets(cutouts: Sequence[Cutout], size: tuple[int, int], stride: int) -> Targets:
    """Return the same targets as `LabelMaps.targets`, for tight cutouts that are not empty.

    Args:
        cutouts: masks of n instances.
        size: (height, width) of the image.
        stride: pixels per cell of the masks.
    """
    count = len(cutouts)
    boxes = np.zeros((count, 4), dtype=np.float32)
    masks = np.zeros((count, -(-size[0] // stride), -(-size[1] // stride)), dtype=bool)
    for n, cutout in enumerate(cutouts):
        rows, columns = cutout.place
        boxes[n] = columns.start, rows.start, columns.stop, rows.stop
        cells = mask_cells(cutout.mask, cutout.top % stride, cutout.left % stride, stride)
        top, left = cutout.top // stride, cutout.left // stride
        masks[n, top : top + cells.shape[0], left : left + cells.shape[1]] = cells
    return Targets(np.arange(count), boxes, masks)
