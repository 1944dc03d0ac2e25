"""A slide at a low resolution, for tissue and previews."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from formats.slides.pyramid import SlideFile
from formats.slides.resolution import PatchReader

_BLOCK = 1 << 22  # pixels of a level that are read at once, at most about
_SMALLEST = 8  # side of a block in its own pixels


class Overview(NamedTuple):
    """A slide's bounds at a low resolution.

    Attributes:
        image: (h, w, 3) RGB.
        scale: pixels of level 0 per pixel of the image.
        origin: (x, y) at level 0 of the image's top-left corner.
    """

    image: NDArray[np.uint8]
    scale: float
    origin: tuple[int, int]


def overview(slide: SlideFile, slide_mpp: float, mpp: float) -> Overview:
    """Return the whole slide within its bounds.

    It is read in blocks from the lowest level that suffices, so that memory stays small even where
    the slide has level 0 alone.

    Args:
        slide: an open slide.
        slide_mpp: micrometres per pixel of level 0.
        mpp: micrometres per pixel of the result; where the slide is coarser, its own.

    Raises:
        UnreadableRegion: a part of the level is broken.
    """
    mpp = max(mpp, slide_mpp)
    px = max(_SMALLEST, int(_BLOCK**0.5 / PatchReader(slide, slide_mpp, mpp, 1).scale))
    reader = PatchReader(slide, slide_mpp, mpp, px)
    x0, y0, width, height = slide.bounds
    scale = mpp / slide_mpp
    across, down = (max(1, round(side / scale)) for side in (width, height))
    image = np.empty((down, across, 3), np.uint8)
    for top in range(0, down, px):
        for left in range(0, across, px):
            block = reader.read(x0 + left * scale, y0 + top * scale)
            part = image[top : top + px, left : left + px]
            part[:] = block[: part.shape[0], : part.shape[1]]
    return Overview(image, scale, (x0, y0))
