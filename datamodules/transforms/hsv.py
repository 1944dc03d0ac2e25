"""Random changes of hue, saturation and value by look-up tables."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datamodules.transforms.resize import ImageArray

ColourTable = npt.NDArray[np.uint8]  # (1, 256, 3): new hue, saturation and value of each value


def draw_colours(rng: np.random.Generator, gains: tuple[float, float, float]) -> ColourTable | None:
    """Draw a random change of colours.

    The hue is shifted by up to ``gains[0]`` of the colour circle (A227); saturation and value are
    multiplied by factors from 1 - gain to 1 + gain.

    Args:
        rng: random generator; three numbers are drawn regardless of the gains.
        gains: largest change of hue, saturation and value.

    Returns:
        The look-up table, or None if all gains are zero.
    """
    hue, saturation, value = rng.uniform(-1, 1, 3) * gains
    if not any(gains):
        return None
    steps = np.arange(256)
    table = np.empty((1, 256, 3), dtype=np.uint8)
    table[0, :, 0] = (steps + round(hue * 256)) % 256
    table[0, :, 1] = np.clip(np.rint(steps * (1 + saturation)), 0, 255)
    table[0, :, 2] = np.clip(np.rint(steps * (1 + value)), 0, 255)
    return table


def change_colours(image: ImageArray, table: ColourTable | None) -> ImageArray:
    """Return an image (h, w, 3) uint8 RGB with its hue, saturation and value replaced."""
    import cv2

    if table is None:
        return image
    # hue in 256 steps, so that uint8 arithmetic wraps around
    changed = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), table)
    return np.asarray(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB_FULL), dtype=np.uint8)
