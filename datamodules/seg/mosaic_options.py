"""Options of training images composed of several images."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MosaicOptions:
    """Options of composing a square training image; the defaults suit one-stage detectors.

    The steps, in this order: place four images around a random centre (mosaic, arXiv 2004.10934)
    or one image in the middle; rotate, scale, shear and shift by one matrix; paste objects of
    another image (arXiv 2012.07177); blend in another such image (mixup, arXiv 1710.09412); change
    colours. Areas without an image are grey.

    Attributes:
        size: side in pixels; a side drawn for the step (``train_short_sides``) has precedence.
        probability: share of samples that are mosaics of four images; the others are single images
            whose longer side is ``size`` before they are scaled.
        close_epochs: number of epochs at the end of the run with single images only (A231).
        window: approximate number of images from which the other images of a sample are drawn;
            they are near it in the order of the epoch and read by the same worker (A230). They are
            kept decoded; all workers of a process together keep about eight times as many.
        translate: largest shift, as a share of the side.
        scale: scale factors are drawn from 1 - scale to 1 + scale.
        degrees: largest rotation in either direction in degrees.
        shear: largest shear angle in degrees, for each axis separately.
        perspective: largest value of the two perspective terms in 1 / pixel, below 1 / (3 size),
            because beyond that a corner of a mosaic has no image.
        hsv: largest change of hue (as a share of the circle), saturation and value (as shares).
        flip: probability of a horizontal flip.
        flip_vertical: probability of a vertical flip.
        mixup: probability that two such images are blended.
        copy_paste: probability that objects of another image are pasted.
        min_side: objects whose box is narrower or lower than this many pixels are dropped, except
            crowds.
        min_visible: objects with a smaller share of their pixels left are dropped, except crowds.

    Raises:
        ValueError: a value is out of range; the message names it.
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
        """Check that a side is not too large for the perspective.

        Raises:
            ValueError: the side is too large.
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
