"""Reading picture files as 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_BROKEN = (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError)
_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_ORIENTATION_TAG = 0x0112


def _from_16_bit(values: npt.NDArray[np.integer], path: Path) -> npt.NDArray[np.uint8]:
    """Scale the full range 0 to 65535 to 0 to 255, rounded; grey is repeated to three channels."""
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"{path} holds values from {values.min()} to {values.max()}; write it with 8 or 16 "
            "bits a channel"
        )
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture file.

    Grey is repeated to three channels, transparency is dropped, 16-bit values are divided by 257
    (a camera that uses 12 of 16 bits gives dark pictures: stretch them beforehand, alike in the
    whole data set). Pixels come as stored: an EXIF orientation is ignored, as by pycocotools,
    because annotations are drawn in that frame.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ValueError: the file is missing, broken or of a kind without a natural 8-bit form.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):
                return _from_16_bit(np.asarray(image), path)
            if image.mode not in _PLAIN_MODES:
                raise ValueError(
                    f"{path} has pixels of kind {image.mode}; write it with 8 or 16 bits a channel"
                )
            return np.array(image.convert("RGB"), dtype=np.uint8)  # writable, unlike asarray
    except FileNotFoundError as error:
        raise ValueError(f"picture file {path} is missing") from error
    except _BROKEN as error:
        raise ValueError(f"picture file {path} cannot be read: {error}; replace it") from error


def header_size(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Read a file's (height, width) as stored and as shown after its EXIF orientation.

    Raises:
        ValueError: the file is missing or is no picture.
    """
    try:
        with Image.open(path) as image:
            stored = (image.height, image.width)
            turned = image.getexif().get(_ORIENTATION_TAG, 1) >= 5
    except FileNotFoundError as error:
        raise ValueError(f"picture file {path} is missing") from error
    except _BROKEN as error:
        raise ValueError(f"picture file {path} cannot be read: {error}; replace it") from error
    return stored, (stored[1], stored[0]) if turned else stored
