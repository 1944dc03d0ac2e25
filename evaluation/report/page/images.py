"""Pixels as files of a page: shrunk, and as PNG or, where that is large, as JPEG."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIDE = 800  # pixels of the longer side
SMALL = 4_000  # bytes up to which a file is lossless
QUALITIES = (82, 70, 55)  # of a JPEG, tried in order
LARGEST = 80_000  # bytes of a JPEG, but for the lowest quality


def encode_image(pixels: npt.NDArray[np.uint8], side: int = SIDE) -> tuple[bytes, str]:
    """Return the file of an image and its MIME type.

    Args:
        pixels: (h, w) or (h, w, 3) RGB.
        side: the longer side is shrunk to this length.
    """
    import cv2

    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if pixels.ndim == 3 and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., 0]  # grey, a third of the size
    shown = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    lossless = cv2.imencode(".png", shown, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    if len(lossless) <= SMALL:
        return lossless, "image/png"
    lossy = b""
    for quality in QUALITIES:
        lossy = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(lossy) <= LARGEST:
            break
    return (lossy, "image/jpeg") if 2 * len(lossy) < len(lossless) else (lossless, "image/png")
