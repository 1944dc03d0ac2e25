"""Instance masks of an image packed into few label maps, for geometric transforms.

An image of 260 nuclei has 260 masks, but as they hardly overlap, they fit into two maps whose
pixels contain instance numbers. Nearest-neighbour transforms of the maps equal the transforms of
the single masks, at a fraction of the time and memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from structures import RLEMasks

Maps = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Window = tuple[slice, slice]

_MAX_PER_LAYER = 255


def _pixels(runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the flat positions (in column-major order) of the pixels of a mask."""
    ends = np.cumsum(runs)
    lengths = runs[1::2]
    starts = ends[0::2][: lengths.size]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def mask_cells(window: Bools, top: int, left: int, stride: int) -> Bools:
    """Return the cells of a mask: True where at least half of the pixels of a cell are True.

    Args:
        window: (r, c) part of the mask, which is zero outside.
        top: rows of the first cell before the window, below ``stride``.
        left: columns of the first cell before the window, below ``stride``.
        stride: pixels of a cell in both directions.

    Returns:
        (ceil((top + r) / s), ceil((left + c) / s)).
    """
    import cv2

    if stride == 1:
        return window
    rows, columns = -(-(top + window.shape[0]) // stride), -(-(left + window.shape[1]) // stride)
    area = stride * stride
    exact = area < 256  # the mean of a cell's pixels, each s * s, then equals their number
    padded = np.zeros((rows * stride, columns * stride), dtype=np.uint8 if exact else np.float32)
    place = padded[top : top + window.shape[0], left : left + window.shape[1]]
    np.multiply(window, area, out=place, casting="unsafe")
    means = cv2.resize(padded, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(2 * np.rint(means).astype(np.int32) >= area)


class Targets(NamedTuple):
    """The n non-empty instances of an image of size (h, w).

    Attributes:
        keep: (n,) int64, their positions among the instances of the ``LabelMaps``.
        boxes: (n, 4) float32, tight and half-open (x1, y1, x2, y2) in pixels.
        masks: (n, ceil(h / s), ceil(w / s)) bool for stride s.
    """

    keep: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    masks: Bools


@dataclass(frozen=True, slots=True)
class LabelMaps:
    """Masks of K instances of an image of size (h, w) in L layers.

    Attributes:
        maps: (L, h, w) uint8; 0 is background, v > 0 the instance with that value in that layer.
        layers: (K,) int64, the layer of each instance.
        values: (K,) int64, the value of each instance in its layer, 1 to 255.
    """

    maps: Maps
    layers: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.values.size)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.maps.shape[1]), int(self.maps.shape[2])

    @classmethod
    def from_rle(cls, masks: RLEMasks) -> LabelMaps:
        """Pack masks, each into the first layer where it overlaps no other mask."""
        height, width = masks.size
        flat: list[Maps] = []
        filled: list[int] = []
        layers = np.zeros(len(masks), dtype=np.int64)
        values = np.zeros(len(masks), dtype=np.int64)
        for k, runs in enumerate(masks):
            pixels = _pixels(runs)
            layer = 0
            while layer < len(flat) and (
                filled[layer] == _MAX_PER_LAYER or flat[layer][pixels].any()
            ):
                layer += 1
            if layer == len(flat):
                flat.append(np.zeros(height * width, dtype=np.uint8))
                filled.append(0)
            filled[layer] += 1
            layers[k], values[k] = layer, filled[layer]
            flat[layer][pixels] = filled[layer]
        maps = np.zeros((len(flat), height, width), dtype=np.uint8)
        for layer, columns in enumerate(flat):
            maps[layer] = columns.reshape(width, height).T
        return cls(maps, layers, values)

    @classmethod
    def from_windows(
        cls, masks: Sequence[tuple[Bools, Window]], size: tuple[int, int]
    ) -> LabelMaps:
        """Pack masks that are given as cropped windows.

        Args:
            masks: for each mask, (r, c) bool and its position.
            size: (height, width) of the image.
        """
        packed: list[Maps] = []
        filled: list[int] = []
        layers = np.zeros(len(masks), dtype=np.int64)
        values = np.zeros(len(masks), dtype=np.int64)
        for k, (mask, place) in enumerate(masks):
            layer = 0
            while layer < len(packed) and (
                filled[layer] == _MAX_PER_LAYER or packed[layer][place][mask].any()
            ):
                layer += 1
            if layer == len(packed):
                packed.append(np.zeros(size, dtype=np.uint8))
                filled.append(0)
            filled[layer] += 1
            layers[k], values[k] = layer, filled[layer]
            packed[layer][place][mask] = filled[layer]
        maps = np.stack(packed) if packed else np.zeros((0, *size), dtype=np.uint8)
        return cls(maps, layers, values)

    def with_maps(self, maps: Maps) -> LabelMaps:
        """Return the same instances after a transform of the maps."""
        return LabelMaps(maps, self.layers, self.values)

    def windows(self) -> list[Window | None]:
        """Return the rows and columns that each instance occupies, None if it has no pixel."""
        found = [ndimage.find_objects(layer, max_label=_MAX_PER_LAYER) for layer in self.maps]
        pairs = zip(self.layers.tolist(), self.values.tolist(), strict=True)
        return [found[layer][value - 1] for layer, value in pairs]

    def targets(self, stride: int = 1) -> Targets:
        """Return boxes and dense masks of the instances that have a pixel left.

        A cell of a mask is True if at least half of its ``stride`` x ``stride`` pixels are, where
        pixels beyond the border of the image count as False, so that areas are kept on average. An
        object smaller than half a cell may have no cell; it keeps its box.

        Args:
            stride: pixels per cell of the masks, at least 1.
        """
        windows = self.windows()
        height, width = self.size
        keep = np.array([k for k, window in enumerate(windows) if window], dtype=np.int64)
        boxes = np.zeros((keep.size, 4), dtype=np.float32)
        masks = np.zeros((keep.size, -(-height // stride), -(-width // stride)), dtype=bool)
        for n, k in enumerate(keep):
            window = windows[k]
            assert window is not None
            rows, columns = window
            boxes[n] = columns.start, rows.start, columns.stop, rows.stop
            top, left = rows.start // stride, columns.start // stride
            part = self.maps[self.layers[k]][window] == self.values[k]
            cells = mask_cells(part, rows.start % stride, columns.start % stride, stride)
            masks[n, top : top + cells.shape[0], left : left + cells.shape[1]] = cells
        return Targets(keep, boxes, masks)
