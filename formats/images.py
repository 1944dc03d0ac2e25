"""Reading image files as 8-bit RGB; no other module opens image files of a data set."""

from __future__ import annotations

import contextlib
import logging
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from formats.image_limits import LibraryLimit, check_size
from formats.raw_files import is_raw, raw_size, read_developed

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
# How far a check reads an image file: only that it exists, its size, or all pixels
Depth = Literal["name", "header", "pixels"]
# What an EXIF orientation does: turns the image, nothing, or makes the file unusable
ExifPolicy = Literal["apply", "ignore", "error"]
Size = tuple[int, int]  # height, width

_library_limit = LibraryLimit()
_log = logging.getLogger(__name__)
_BROKEN = (
    UnidentifiedImageError,
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    struct.error,
    MemoryError,
)
_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_ORIENTATION_TAG = 0x0112
_STRIP = 1 << 24  # pixels converted at a time


@dataclass(frozen=True)
class ImageOptions:
    """How image files are read.

    Attributes:
        exif: whether the EXIF orientation turns (or mirrors) an image: ``apply``, ``ignore``, or
            ``error`` to refuse files that have one; None turns an image whose size is stated if
            the stated size fits only the turned image (A320), and every image without a stated
            size.
        max_megapixels: larger images are refused; None for 3 bytes a pixel in a twelfth of
            the memory of the machine.

    Raises:
        ValueError: ``max_megapixels`` is not positive.
    """

    exif: ExifPolicy | None = None
    max_megapixels: float | None = None

    def __post_init__(self) -> None:
        if self.max_megapixels is not None and not self.max_megapixels > 0:
            raise ValueError(f"max_megapixels must be positive, got {self.max_megapixels}")


ANY_SIZE = ImageOptions(max_megapixels=math.inf)


class ImageHeader(NamedTuple):
    """What the header of an image file says.

    Attributes:
        path: the file.
        stored: (height, width) of the pixels in the file.
        orientation: EXIF orientation from 1 (upright) to 8.
    """

    path: Path
    stored: Size
    orientation: int

    @property
    def shown(self) -> Size:
        """(height, width) after the EXIF orientation."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored

    def is_turned(self, exif: ExifPolicy | None, stated: tuple[Any, Any] | None = None) -> bool:
        """Return whether the EXIF orientation is applied.

        Args:
            exif: see `ImageOptions`.
            stated: (height, width) according to the annotations, if known.

        Raises:
            ValueError: the image has an orientation and ``exif`` is ``error``.
        """
        if self.orientation == 1:
            return False
        if exif == "error":
            raise ValueError(
                f"image file {self.path} has the EXIF orientation {self.orientation} and exif is "
                "error; set exif: apply or ignore (--data.exif), or save it upright without the tag"
            )
        if exif is None and stated is not None:
            if stated == self.stored == self.shown:
                _tell_once(
                    self.path,
                    "images such as %s have an EXIF orientation, and the stated size fits with and "
                    "without it: they are read as stored; set exif: apply (--data.exif apply) if "
                    "the annotations refer to turned images",
                )
            return stated == self.shown != self.stored
        return exif != "ignore"

    def size(self, exif: ExifPolicy | None, stated: tuple[Any, Any] | None = None) -> Size:
        """Return (height, width) as `read_rgb` returns the image; see ``is_turned``."""
        return self.shown if self.is_turned(exif, stated) else self.stored


def read_header(path: Path, options: ImageOptions | None = None) -> ImageHeader:
    """Read the header of an image file.

    A file without the end marker of its format is decoded, which detects truncated files. RAW files
    of cameras are upright.

    Raises:
        ValueError: the file is missing, is not an image, lacks pixels or is too large.
    """
    if is_raw(path):
        limit = None if options is None else options.max_megapixels
        return ImageHeader(path, raw_size(path, limit), 1)
    with _opened(path, options or ImageOptions()) as (image, header):
        if not _is_complete(path, image.format):
            with _naming(path):
                image.load()
    return header


def read_rgb(
    path: Path, options: ImageOptions | None = None, stated: Size | None = None
) -> npt.NDArray[np.uint8]:
    """Read an image file.

    Grey is repeated to three channels, transparency is dropped, 16-bit values are divided by 257
    (a camera that uses 12 of 16 bits gives dark images: stretch them beforehand, in the same way
    for the whole data set). Of a TIFF file with several pages the first is read. RAW files
    of cameras are developed.

    Args:
        path: the file.
        options: how EXIF orientations and large images are handled; None for the defaults.
        stated: (height, width) according to the annotations, see `ImageOptions`.

    Returns:
        (h, w, 3) uint8, writable and contiguous.

    Raises:
        ValueError: the file is missing, broken, too large or has no natural 8-bit form, or its
            EXIF orientation is refused.
    """
    options = options or ImageOptions()
    if is_raw(path):
        read_header(path, options)  # refuses large files
        return read_developed(path)
    with _opened(path, options) as (image, header):
        turned, kind = header.is_turned(options.exif, stated), image.format
        deep = image.mode.startswith("I")
        if not deep and image.mode not in _PLAIN_MODES:
            raise ValueError(
                f"{path} has pixels of mode {image.mode}; write it with 8 or 16 bits per channel"
            )
        with _naming(path):
            values = np.array(image) if deep else _from_8_bit(image)
    pixels = _from_16_bit(values, path) if deep else values
    is_turned = kind == "TIFF"  # the library itself turns such images
    if turned == is_turned:
        return pixels
    back = {6: 8, 8: 6}.get(header.orientation, header.orientation)  # the others undo themselves
    return _turned(pixels, header.orientation if turned else back)


def _from_16_bit(values: npt.NDArray[np.integer], path: Path) -> npt.NDArray[np.uint8]:
    """Scale 0 to 65535 to 0 to 255 with rounding and repeat grey to three channels."""
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"{path} holds values from {values.min()} to {values.max()}; write it with 8 or 16 "
            "bits per channel"
        )
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _from_8_bit(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the pixels as RGB; a large image is converted in strips, which saves memory."""
    width, height = image.size
    rows = max(1, _STRIP // width)
    if rows >= height:
        return np.array(image.convert("RGB"), dtype=np.uint8)  # writable, unlike asarray
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(strip.convert("RGB"))
    return pixels


def _turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Return (h, w, 3) pixels as an image of that EXIF orientation is shown."""
    if orientation >= 5:  # row 0 is a visual side, not the top or the bottom
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


@contextlib.contextmanager
def _opened(path: Path, options: ImageOptions) -> Iterator[tuple[Image.Image, ImageHeader]]:
    """Open an image within our own limit instead of the library's; its pixels are not read."""
    with _library_limit.lifted():
        with _naming(path):
            image = Image.open(path)
        with image:
            with _naming(path):
                orientation = _orientation(image)
            # the library states the turned size of TIFF files
            swapped = image.format == "TIFF" and orientation >= 5
            stored = image.size if swapped else (image.height, image.width)
            check_size(path, stored, options.max_megapixels)
            # the other pages are often masks, channels or smaller copies  # A323
            if image.format == "TIFF" and getattr(image, "is_animated", False):
                _tell_once(path, "TIFF files such as %s have several pages: the first is read")
            yield image, ImageHeader(path, stored, orientation)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn errors of the library on a broken file into a ValueError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"image file {path} is missing") from error
    except MemoryError as error:
        raise ValueError(f"image file {path} does not fit into the memory; reduce it") from error
    except _BROKEN as error:
        raise ValueError(f"image file {path} cannot be read: {error}; replace it") from error


_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # the last marker and the last chunk


def _is_complete(path: Path, kind: str | None) -> bool:
    """Return whether a file has the end marker of its format; True for formats without one."""
    end = _ENDS.get(kind or "", b"")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(end)))
        return file.read() == end


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) if there is none or it has no meaning."""
    # Use the method of the base class, because the method for PNG files decodes all pixels
    found = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


_told: dict[tuple[Path, str], object] = {}


def _tell_once(path: Path, text: str) -> None:
    """Log a warning about a file, once for every folder."""
    own = object()  # of two threads, one finds its own here
    if _told.setdefault((path.parent, text), own) is own:
        _log.warning("%s: " + text, path.parent, path.name)
