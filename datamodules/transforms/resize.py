"""Resizing of images and masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datamodules.transforms.label_maps import LabelMaps

ImageArray = npt.NDArray[np.uint8]
Size = tuple[int, int]

_ALL = slice(None)


def target_size(
    size: Size, short_side: int | None, scale: float, max_long_side: int | None
) -> Size:
    """Return the (height, width) to which an image is resized.

    Args:
        size: (height, width) of the image.
        short_side: wanted length of the shorter side; None to multiply by ``scale`` instead.
        scale: factor used where no short side is given.
        max_long_side: the factor is reduced if the longer side would exceed this; None for no
            limit.

    Returns:
        Both sides times one factor, rounded half up, at least 1.
    """
    factor = scale if short_side is None else short_side / min(size)
    if max_long_side is not None:
        factor = min(factor, max_long_side / max(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def resize_image(image: ImageArray, size: Size) -> ImageArray:
    """Resize an image (h, w, 3), uint8 or float, with pixel centres at +0.5 and aligned borders.

    Enlarging is bilinear. Shrinking averages over the area that a pixel covers, so that fine
    texture does not alias.
    """
    import cv2

    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=method), image.dtype)


def _nearest(old: int, new: int) -> npt.NDArray[np.int64]:
    """Return the (new,) indices of the ``old`` pixels that contain the centres of ``new`` pixels.

    A centre on the border between two pixels (all centres if a size is halved) takes the pixel
    before and after it in turn, so that masks do not drift.
    """
    centres = (2 * np.arange(new) + 1) * old  # in units of 1 / (2 new) pixels
    border = centres % (2 * new) == 0
    return np.asarray(centres // (2 * new) - (border & (np.arange(new) % 2 == 0)))


def resize_maps(
    maps: LabelMaps, size: Size, rows: slice = _ALL, columns: slice = _ALL
) -> LabelMaps:
    """Resize masks: each pixel takes the value at its centre in the full-resolution mask.

    Args:
        maps: masks of the instances.
        size: (height, width) of the whole image after resizing.
        rows: rows that are kept; the others are not computed.
        columns: columns that are kept.
    """
    if maps.size == size and rows == columns == _ALL:
        return maps
    down, across = (_nearest(old, new) for old, new in zip(maps.size, size, strict=True))
    return maps.with_maps(maps.maps.take(down[rows], axis=1).take(across[columns], axis=2))
