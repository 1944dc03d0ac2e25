"""A small image of a slide with the outline of its tissue and its patches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datamodules.wsi.tissue import TissueMask
from formats.slides.overview import overview
from formats.slides.pyramid import SlideFile

SIDE = 1024  # longest side in pixels
_OUTLINE = (0, 150, 0)
_PATCH = (30, 60, 220)

Image = npt.NDArray[np.uint8]


def preview(
    slide: SlideFile,
    slide_mpp: float,
    tissue: TissueMask,
    coords: npt.NDArray[np.int64],
    step: float,
) -> Image:
    """Return an image of a slide, (H, W, 3) RGB, at most about `SIDE` pixels long.

    Args:
        slide: the open file.
        slide_mpp: micrometres per pixel of level 0.
        tissue: its tissue, outlined in green.
        coords: (N, 2) level-0 pixels (x, y) of the patches, drawn in blue.
        step: side of a patch in level-0 pixels.

    Raises:
        OSError: the slide cannot be read.
    """
    import cv2

    longest = max(slide.bounds[2:])
    image, scale, corner = overview(slide, slide_mpp, max(1.0, longest / SIDE) * slide_mpp)
    for place in (coords - corner) / scale:
        begin, end = np.rint([place, place + step / scale]).astype(int)
        cv2.rectangle(image, begin.tolist(), end.tolist(), _PATCH, 1)
    outlines, _ = cv2.findContours(
        tissue.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    ratio, shift = tissue.scale / scale, (np.array(tissue.origin) - corner) / scale
    placed = [np.rint((line + 0.5) * ratio + shift).astype(np.int32) for line in outlines]
    cv2.drawContours(image, placed, -1, _OUTLINE, 2)
    return image
