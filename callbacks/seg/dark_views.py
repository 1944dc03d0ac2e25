"""What people see of images in the dark, which are nearly black or have the colours of a sensor."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from callbacks.seg.frames import Size, pixels_of, resized, valid_image
from structures import SegBatch

_WHITE = 99  # percentile of the pixels' largest colours that becomes white
_MIDDLE = 0.3  # the middle of the greys, if a gamma of at most 2.2 is enough


class DarkViews(NamedTuple):
    """An image in the dark, (h, w, 3) uint8 RGB each.

    Attributes:
        stored: what a camera stores.
        bright: the same, brightened.
        seen: the scene, to be drawn on; in noise one may see nothing.
    """

    stored: npt.NDArray[np.uint8]
    bright: npt.NDArray[np.uint8]
    seen: npt.NDArray[np.uint8]


def dark_views(
    data: Any, split: str, batch: SegBatch, position: int, size: Size
) -> DarkViews | None:
    """Return the views of the image at ``position`` in a frame of ``size``.

    An ordinary image that was darkened is the scene; its noise is shown on the developed RAW data.
    An image that was taken in the dark is brightened by `brighten`, also as the scene (A496).

    Args:
        data: the datamodule of the run, or None.
        split: that is evaluated.
        batch: what the network has got.
        position: of the image.
        size: (height, width) of the frame.

    Returns:
        The views; None where images are not dark.
    """
    if not hasattr(data, "shows_dark") or not data.shows_dark(split):
        return None
    made = data.dark_image(split, int(batch.index[position]))
    if made is not None:
        return DarkViews(*(pixels_of(resized(image[0], size)) for image in made))
    image = resized(valid_image(batch, position), size)
    bright = brighten(image.permute(1, 2, 0).numpy())
    return DarkViews(pixels_of(image), bright, bright)


def brighten(image: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Return an image so that something is seen on it; colours keep their proportions.

    Args:
        image: (h, w, 3) in [0, 1].
    """
    white = float(np.percentile(image.max(axis=2), _WHITE))
    scaled = np.clip(image / max(white, 1e-6), 0, 1)
    middle = min(max(float(np.median(scaled.mean(axis=2))), 1e-6), 1 - 1e-6)
    exponent = min(max(math.log(_MIDDLE) / math.log(middle), 1 / 2.2), 1.0)
    return np.asarray(np.rint(scaled**exponent * 255), dtype=np.uint8)
