"""Micrometres per pixel (mpp) of a slide, and patches of a stated mpp.

A patch of p pixels at m micrometres per pixel covers ``step = p * m / mpp of level 0`` pixels of
level 0, in general no whole number. It is read from the level whose pixels are the largest that are
not larger than m, and resampled once by a triangle filter as wide as the step between the patch's
pixels (Pillow's ``BILINEAR``, torchvision's ``antialias=True``), which takes fractional positions.
The filter sees the slide's own pixels beyond the patch's border.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from formats.slides.pyramid import SlideFile

FINEST, COARSEST = 0.05, 20.0  # micrometres per pixel that a slide can have
UNEQUAL = 0.01  # relative difference between x and y that is taken for rounding
FINER = 0.1  # how much finer than level 0 patches may be, relative
_SAME = 1e-3  # relative difference of resolutions that is taken for rounding  # A502
_EXACT = 1e-6  # likewise, where pixels are used as they are; also of positions, in pixels


class Resolution(NamedTuple):
    """Micrometres per pixel of level 0, and where the number comes from."""

    mpp: float
    source: Literal["table", "file"]


def resolution(slide: SlideFile, given: float | None = None) -> Resolution:
    """Return the resolution of a slide.

    Args:
        slide: the slide.
        given: micrometres per pixel in the column ``mpp`` of the table of slides, or None.

    Raises:
        ValueError: neither table nor file tell it, it is not within 0.05 to 20, or the file tells
            values for x and y that differ by more than 1 %. It is never guessed.
    """
    remedy = "state the micrometres per pixel of level 0 in the column mpp of the table of slides"
    if given is not None:
        if not FINEST <= given <= COARSEST:
            raise ValueError(
                f"{slide.path}: mpp {given:g} of the table is not between {FINEST} and "
                f"{COARSEST:g} micrometres per pixel; correct the column mpp"
            )
        return Resolution(float(given), "table")
    if slide.mpp is None:
        raise ValueError(
            f"{slide.path}: the file does not tell its micrometres per pixel; {remedy}"
        )
    x, y = slide.mpp
    if not (FINEST <= x <= COARSEST and FINEST <= y <= COARSEST):
        screen = ", the 72 dpi that programs write by default" if 352 <= x <= 353 else ""
        raise ValueError(
            f"{slide.path}: the file tells {x:g} x {y:g} micrometres per pixel{screen}, which is "
            f"not between {FINEST} and {COARSEST:g}; {remedy}"
        )
    if abs(x - y) > UNEQUAL * min(x, y):
        raise ValueError(
            f"{slide.path}: the file tells {x:g} micrometres per pixel in x and {y:g} in y, which "
            f"differ by more than {UNEQUAL:.0%}; {remedy}"
        )
    return Resolution((x + y) / 2, "file")


class PatchReader:
    """Reads square patches of one resolution from a slide.

    Args:
        slide: an open slide.
        slide_mpp: micrometres per pixel of level 0.
        mpp: micrometres per pixel of the patches.
        patch_px: side of a patch in its own pixels.

    Attributes:
        step: side of a patch in pixels of level 0, not rounded.
        level: the level that is read.
        scale: pixels of that level per pixel of a patch; from 0.9 to 1 where the patches are finer
            than the slide, else 1 or more (up to rounding).

    Raises:
        ValueError: the patches are over 10 % finer than the slide, or have no size.
    """

    def __init__(self, slide: SlideFile, slide_mpp: float, mpp: float, patch_px: int) -> None:
        if not (mpp > 0 and patch_px > 0):
            raise ValueError(
                f"patches of {patch_px} pixels at {mpp} micrometres per pixel have no size; "
                "state positive numbers"
            )
        if slide_mpp > mpp * (1 + FINER) * (1 + _EXACT):
            raise ValueError(
                f"{slide.path}: the slide has {slide_mpp:g} micrometres per pixel, which is too "
                f"coarse for patches of {mpp:g}; ask for {slide_mpp / (1 + FINER):.3g} or more, or "
                "leave the slide out"
            )
        self.slide = slide
        self.patch_px = patch_px
        self.step = mpp / slide_mpp * patch_px
        fitting = [
            number
            for number, level in enumerate(slide.levels)
            if slide_mpp * level.downsample <= mpp * (1 + _SAME)
        ]
        self.level = max(fitting, key=lambda n: slide.levels[n].downsample) if fitting else 0
        self._factor = slide.levels[self.level].downsample
        self.scale = mpp / (slide_mpp * self._factor)

    def read(self, x: float, y: float) -> NDArray[np.uint8]:
        """Return the patch whose top-left corner is at (x, y) of level 0, as RGB.

        Where the level has the asked resolution and the corner is one of its pixels, the patch is
        the pixels of the level.

        Returns:
            (patch_px, patch_px, 3), read-only.

        Raises:
            UnreadableRegion: a part of the patch is broken.
        """
        left, top = x / self._factor, y / self._factor
        if self._fits(left, top):
            px = self.patch_px
            return self.slide.read(self.level, round(left), round(top), px, px)
        side = self.patch_px * self.scale
        across, down = self.slide.levels[self.level].size
        x0, x1 = self._reach(left, left + side, across)
        y0, y1 = self._reach(top, top + side, down)
        region = self.slide.image(self.level, x0, y0, x1 - x0, y1 - y0)
        box = (left - x0, top - y0, left - x0 + side, top - y0 + side)
        size = (self.patch_px, self.patch_px)
        return np.asarray(region.resize(size, Image.Resampling.BILINEAR, box=box))

    def _reach(self, start: float, end: float, length: int) -> tuple[int, int]:
        """Return what the filter sees: more than the patch, but no background beside the slide."""
        reach = max(self.scale, 1.0)  # half the width of the filter
        first = max(math.floor(start - reach), min(math.floor(start), 0))
        last = min(math.ceil(end + reach), max(math.ceil(end), length))
        return first, last

    def _fits(self, left: float, top: float) -> bool:
        within = abs(left - round(left)) < _EXACT and abs(top - round(top)) < _EXACT
        return within and abs(self.scale - 1) < _EXACT
