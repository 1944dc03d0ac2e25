"""Reading image files as 8-bit RGB."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
# How far a check reads an image file: only that it exists, its size, or all pixels
Depth = Literal["name", "header", "pixels"]

_BROKEN = (
    UnidentifiedImageError,
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    struct.error,
    Image.DecompressionBombError,
)
_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_ORIENTATION_TAG = 0x0112


def _from_16_bit(values: npt.NDArray[np.integer], path: Path) -> npt.NDArray[np.uint8]:
    """Scale 0 to 65535 to 0 to 255 with rounding and repeat grey to three channels."""
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"{path} holds values from {values.min()} to {values.max()}; write it with 8 or 16 "
            "bits per channel"
        )
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image file.

    Grey is repeated to three channels, transparency is dropped, 16-bit values are divided by 257
    (a camera that uses 12 of 16 bits gives dark images: stretch them beforehand, in the same way
    for the whole data set). Pixels are returned as stored: an EXIF orientation is ignored, as by
    pycocotools, because annotations refer to the stored pixels.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ValueError: the file is missing, broken or has no natural 8-bit form.
    """
    with _naming(path), Image.open(path) as image:
        mode = image.mode
        if mode.startswith("I"):
            values = np.array(image)
        elif mode in _PLAIN_MODES:
            return np.array(image.convert("RGB"), dtype=np.uint8)  # writable, unlike asarray
    if not mode.startswith("I"):
        raise ValueError(
            f"{path} has pixels of mode {mode}; write it with 8 or 16 bits per channel"
        )
    return _from_16_bit(values, path)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn errors of the library on a broken file into a ValueError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"image file {path} is missing") from error
    except _BROKEN as error:
        raise ValueError(f"image file {path} cannot be read: {error}; replace it") from error


def header_size(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Read a file's (height, width) as stored and as shown after its EXIF orientation.

    A file without the end marker of its format is decoded, which detects truncated files.

    Raises:
        ValueError: the file is missing, is not an image or lacks pixels.
    """
    with _naming(path), Image.open(path) as image:
        stored = (image.height, image.width)
        turned = _orientation(image) >= 5
        if not _is_complete(path, image.format):
            image.load()
    return stored, (stored[1], stored[0]) if turned else stored


_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # the last marker and the last chunk


def _is_complete(path: Path, kind: str | None) -> bool:
    """Return whether a file has the end marker of its format; True for formats without one."""
    end = _ENDS.get(kind or "", b"")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(end)))
        return file.read() == end


def is_upright(path: Path) -> bool:
    """Return whether a readable image is shown as stored, neither rotated nor mirrored."""
    with Image.open(path) as image:
        return _orientation(image) in (0, 1)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none."""
    # Use the method of the base class, because the method for PNG files decodes all pixels
    found = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    return found if isinstance(found, int) else 1
