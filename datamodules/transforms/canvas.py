"""Canvas on which images and their instances are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.transforms.affine import Matrix, magnification
from datamodules.transforms.cutouts import Cutout, cut_out
from datamodules.transforms.hsv import ColourTable
from datamodules.transforms.label_maps import LabelMaps
from datamodules.transforms.resize import ImageArray
from datamodules.transforms.warp import warp

GREY = 114


class Tile(NamedTuple):
    """An image with its K instances, to be drawn on a canvas.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        cutouts: mask of each instance, None if it has no pixel.
        labels: class of each instance.
        crowd: whether each instance is a crowd region.
        pixels: (K,) int64, number of pixels of each mask.
        centres: (K, 2) (x, y), centre of the box of each mask.
    """

    image: ImageArray
    cutouts: list[Cutout | None]
    labels: list[int]
    crowd: list[bool]
    pixels: npt.NDArray[np.int64]
    centres: npt.NDArray[np.float64]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.image.shape[0]), int(self.image.shape[1])

    @classmethod
    def of(
        cls,
        image: ImageArray,
        maps: LabelMaps,
        labels: npt.NDArray[np.int64],
        crowd: npt.NDArray[np.bool_],
    ) -> Tile:
        """Build the tile of an image from its masks."""
        cutouts = cut_out(maps)
        pixels = np.zeros(len(cutouts), dtype=np.int64)
        centres = np.zeros((len(cutouts), 2))
        for k, cutout in enumerate(cutouts):
            if cutout is not None:
                rows, columns = cutout.mask.shape
                pixels[k] = np.count_nonzero(cutout.mask)
                centres[k] = cutout.left + columns / 2, cutout.top + rows / 2
        return cls(image, cutouts, labels.tolist(), crowd.tolist(), pixels, centres)


class Instance(NamedTuple):
    """An object on a canvas.

    Attributes:
        cutout: tight mask of the object.
        label: class of the object.
        crowd: whether it is a crowd region.
        expected: number of pixels that it would have if it were neither cut off nor covered.
    """

    cutout: Cutout
    label: int
    crowd: bool
    expected: float

    def is_visible(self, min_side: float, min_visible: float) -> bool:
        """Return whether enough of the object is visible to train on (A228).

        Its box must have at least ``min_side`` pixels in both directions, and at least the share
        ``min_visible`` of the expected pixels must be left. For a crowd, which only marks pixels to
        ignore, a single pixel is enough.
        """
        if self.crowd:
            return True
        mask = self.cutout.mask
        enough = min_visible * self.expected
        return min(mask.shape) >= min_side and bool(np.count_nonzero(mask) >= enough)


class Canvas:
    """A square canvas on which images are drawn side by side.

    Args:
        side: side in pixels; the canvas is initially grey with value 114.
        colours: change of colours applied to drawn images but not to the grey background (A227),
            or None.

    Attributes:
        image: (side, side, 3) uint8.
        instances: drawn instances that have a pixel left.
    """

    def __init__(self, side: int, colours: ColourTable | None = None) -> None:
        self.image: ImageArray = np.full((side, side, 3), GREY, dtype=np.uint8)
        self.instances: list[Instance] = []
        self._colours = colours

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.image.shape[0]), int(self.image.shape[1])

    def draw(self, tile: Tile, matrix: Matrix) -> None:
        """Draw an image with its instances onto the free part of the canvas.

        Args:
            tile: the image.
            matrix: maps pixels of the image to pixels of the canvas.

        Raises:
            ValueError: the perspective is so strong that a corner has no image.
        """
        way = warp(tile.image, matrix, self.size)
        if way is None:
            return
        drawn, inside = way.image(self._colours), way.inside()
        part = self.image[way.rows, way.columns]
        if inside is None:
            part[:] = drawn
        else:
            np.copyto(part, drawn, where=inside[..., None])
        expected = (tile.pixels * magnification(way.matrix, tile.centres)).tolist()
        for cutout, label, crowd, pixels in zip(
            tile.cutouts, tile.labels, tile.crowd, expected, strict=True
        ):
            seen = None if cutout is None else way.cutout(cutout)
            if seen is not None:
                self.instances.append(Instance(seen, label, crowd, pixels))

    def paste(self, image: ImageArray, objects: Sequence[Instance]) -> None:
        """Draw objects of another canvas of equal size on top.

        Args:
            image: (side, side, 3), source of the objects' pixels.
            objects: objects to draw; masks of later objects may overlap masks of earlier ones.
        """
        covered = np.zeros(self.size, dtype=bool)
        for thing in objects:
            covered[thing.cutout.place] |= thing.cutout.mask
        np.copyto(self.image, image, where=covered[..., None])
        left: list[Instance] = []
        for mine in self.instances:
            mask = mine.cutout.mask & ~covered[mine.cutout.place]
            seen = mine.cutout._replace(mask=mask).tight()
            if seen is not None:
                left.append(mine._replace(cutout=seen))
        self.instances = left + list(objects)
