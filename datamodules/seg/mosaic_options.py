"""Options of the training images that are made of several images."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MosaicOptions:
    """How a square training image is composed; the defaults are those of the one-stage recipe.

    In this order: four images about a random centre (mosaic, arXiv 2004.10934) or one in the
    middle, turned, scaled, sheared and shifted by one matrix; objects of another image pasted
    (arXiv 2012.07177); another such image blended in (mixup, arXiv 1710.09412); colours.
    Where no image is, it is grey.

    Attributes:
        size: side in pixels; where a step has drawn one (``train_short_sides``), that one.
        probability: share of samples that are mosaics of four; the others are single images
            whose longer side is ``size`` before they are scaled.
        close_epochs: last epochs of the run in which all are single images (A231).
        window: the other images of a sample are among about so many that are near it in the
            epoch's order and that the same worker reads (A230). They are kept decoded: by all
            workers of a process together about eight times as many.
        translate: largest shift, as a share of the side.
        scale: factors are drawn from 1 - scale to 1 + scale.
        degrees: largest angle of rotation to either side.
        shear: largest angle of shear in degrees, each axis by itself.
        perspective: largest of the two perspective terms, in 1 / pixel, below 1 / (3 size), for
            beyond that a corner of a mosaic has no image.
        hsv: largest change of hue (as a share of the circle), saturation and value (as shares).
        flip: probability of mirroring left and right.
        flip_vertical: probability of mirroring up and down.
        mixup: probability that two such images are blended.
        copy_paste: probability that objects of another image are pasted.
        min_side: objects whose box is narrower or lower, in pixels, are dropped, crowds excepted.
        min_visible: objects of which a smaller share of the pixels is left are dropped likewise.

    Raises:
        ValueError: a value is out of range, naming it.
    """

    size: int = 640
    probability: float = 1.0
    close_epochs: int = 10
    window: int = 64
    translate: float = 0.1
    scale: float = 0.5
    degrees: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0
    hsv: tuple[float, float, float] = (0.015, 0.7, 0.4)
    flip: float = 0.5
    flip_vertical: float = 0.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    min_side: float = 2.0
    min_visible: float = 0.1

    def __post_init__(self) -> None:
        for name in ("probability", "flip", "flip_vertical", "mixup", "copy_paste", "min_visible"):
            self._check(name, 0, 1)
        self._check("size", 1, math.inf)
        self._check("window", 1, math.inf)
        self._check("close_epochs", 0, math.inf)
        self._check("min_side", 0, math.inf)
        self._check("translate", 0, 1)
        self._check("scale", 0, 0.95)
        self._check("degrees", 0, 180)
        self._check("shear", 0, 60)
        self._check("perspective", 0, math.inf)
        self.check_side(self.size)
        bounds = (0.5, 1, 1)
        if len(self.hsv) != 3 or any(
            not 0 <= v <= most for v, most in zip(self.hsv, bounds, strict=False)
        ):
            raise ValueError(
                f"mosaic.hsv must be three numbers from 0 to {list(bounds)}, got {list(self.hsv)}"
            )

    def check_side(self, side: int) -> None:
        """Refuse a side that is too large for the perspective.

        Raises:
            ValueError: it is.
        """
        if 3 * side * self.perspective >= 1:
            raise ValueError(
                f"mosaic.perspective must be below 1 / (3 size), {1 / (3 * side):.2g} for "
                f"{side} px, got {self.perspective}"
            )

    def _check(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if not least <= value <= most or value == math.inf:
            allowed = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise ValueError(f"mosaic.{name} must be {allowed}, got {value}")
