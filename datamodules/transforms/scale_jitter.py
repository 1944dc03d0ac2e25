"""Large-scale jitter: resize an image by a random factor, then cut or pad it to a square.

Ghiasi et al. 2021 (arXiv 2012.07177), sec. 3, as Mask2Former and EoMT train with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from datamodules.transforms.label_maps import LabelMaps
from datamodules.transforms.resize import ImageArray, Size, resize_image, resize_maps, target_size


class Window(NamedTuple):
    """Part of a resized image.

    Attributes:
        size: (height, width) of the whole image after resizing.
        top: first row.
        left: first column.
        side: rows and columns; fewer where the image ends.
    """

    size: Size
    top: int
    left: int
    side: int

    @property
    def rows(self) -> slice:
        """Rows of the window."""
        return slice(self.top, self.top + self.side)

    @property
    def columns(self) -> slice:
        """Columns of the window."""
        return slice(self.left, self.left + self.side)


@dataclass(frozen=True)
class ScaleJitter:
    """Options of large-scale jitter.

    The image is resized so that it just fits into a square of ``size`` times a factor drawn from
    ``scale``. Where it is larger than ``size`` a random part of that length is kept; where it is
    smaller the batch is padded, so that training images have always ``size`` rows and columns
    (A580).

    Attributes:
        size: side of a training image in pixels, a multiple of 32.
        scale: smallest and largest factor.

    Raises:
        ValueError: ``size`` is no multiple of 32, or ``scale`` is no range of positive numbers.
    """

    size: int = 1024
    scale: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise ValueError(f"scale_jitter.size must be a multiple of 32, got {self.size}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError(
                f"scale_jitter.scale is the smallest and the largest factor, got {self.scale}"
            )

    def draw(self, rng: np.random.Generator, size: Size) -> Window:
        """Draw the size and the part of an image.

        Args:
            rng: random generator; three numbers are drawn.
            size: (height, width) of the image.
        """
        u = rng.uniform(size=3)
        factor = self.scale[0] + u[0] * (self.scale[1] - self.scale[0])
        resized = target_size(size, None, factor * self.size / max(size), None)
        top, left = (
            int(v * (max(side - self.size, 0) + 1)) for v, side in zip(u[1:], resized, strict=True)
        )
        return Window(resized, top, left, self.size)


def jitter(image: ImageArray, maps: LabelMaps, window: Window) -> tuple[ImageArray, LabelMaps]:
    """Resize an image and its masks and keep a window; some masks may have no pixel left."""
    resized = resize_image(image, window.size)
    part = resized[window.rows, window.columns]
    return np.ascontiguousarray(part), resize_maps(maps, window.size, window.rows, window.columns)
