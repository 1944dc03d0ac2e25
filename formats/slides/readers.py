"""The two libraries that read slides: OpenSlide, and tiffslide for what OpenSlide refuses.

Both get positions in pixels of the level that is read. OpenSlide takes positions at level 0 and
divides them by its own estimate of the level's factor, so the nearest position at level 0 is asked
for; the error is at most half a pixel of level 0. tiffslide divides likewise and rounds down.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

INSTALL = "install the readers of slides with `pip install -e '.[slides]'`"
JPEG_LIKE = (6, 7, 33003, 33004, 33005, 34712)  # TIFF compressions whose data end with END_MARK
END_MARK = b"\xff\xd9"  # end of image of JPEG, end of codestream of JPEG 2000
_PADDING = 8  # bytes that may follow the mark


class Reader(Protocol):
    """What a library knows of a file, and regions of it.

    Attributes:
        name: name of the library.
        sizes: (width, height) of each level.
        downsamples: factor of each level, as the library estimates it.
        properties: what the file says, with OpenSlide's names.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]
    properties: Mapping[str, str]

    def image(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """Return a region inside a level as RGB or RGBA; x and y are pixels of the level."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class OpenSlideReader:
    """A slide by OpenSlide.

    Raises:
        openslide.OpenSlideError: the file is no slide, or broken.
    """

    name = "openslide"

    def __init__(self, path: Path) -> None:
        try:
            import openslide
        except ImportError as error:
            raise ValueError(f"{path}: OpenSlide is missing; {INSTALL}") from error
        self._slide = openslide.OpenSlide(path)
        self.sizes: tuple[tuple[int, int], ...] = tuple(self._slide.level_dimensions)
        self.downsamples: tuple[float, ...] = tuple(self._slide.level_downsamples)
        self.properties: Mapping[str, str] = dict(self._slide.properties)

    def image(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """Return a region inside a level as RGBA."""
        factor = self.downsamples[level]
        place = round(x * factor), round(y * factor)
        return self._slide.read_region(place, level, (width, height))

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


class TiffSlideReader:
    """A TIFF file by tiffslide.

    Raises:
        ValueError: the pixels are not 8-bit RGB, or compressed data are cut off.
        Exception: tiffslide and the decoders below it raise errors of many classes.
    """

    name = "tiffslide"

    def __init__(self, path: Path) -> None:
        try:
            import tifffile
            import tiffslide
        except ImportError as error:
            raise ValueError(f"{path}: tiffslide is missing; {INSTALL}") from error
        with tifffile.TiffFile(path) as tiff:
            for page in tiff.pages:
                _check_data(page)
        self._slide: Any = tiffslide.TiffSlide(path)
        self.sizes: tuple[tuple[int, int], ...] = tuple(self._slide.level_dimensions)
        self.downsamples: tuple[float, ...] = tuple(self._slide.level_downsamples)
        self.properties: Mapping[str, str] = {
            key.replace("tiffslide.", "openslide."): str(value)
            for key, value in self._slide.properties.items()
            if value is not None
        }

    def image(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """Return a region inside a level as RGB or RGBA."""
        factor = self.downsamples[level]
        # The first position of level 0 after the pixel's corner, which rounds down to the pixel
        place = (x, y) if factor == 1 else tuple(math.floor(at * factor) + 1 for at in (x, y))
        pixels = self._slide.read_region(place, level, (width, height), as_array=True)
        return Image.fromarray(np.ascontiguousarray(pixels))

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def _check_data(page: Any) -> None:
    """Raise ValueError if a page has other pixels than 8-bit RGB, or data without an end.

    The decoders below tiffslide return a grey area for JPEG data that are cut off.
    """
    if page.index == 0 and (page.dtype != np.uint8 or page.samplesperpixel not in (3, 4)):
        raise ValueError(
            f"it has {page.samplesperpixel} channels of {page.dtype} instead of 8-bit RGB"
        )
    if page.compression not in JPEG_LIKE:
        return
    file = page.parent.filehandle
    for start, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        tail = min(size, _PADDING)
        file.seek(start + size - tail)
        if size and END_MARK not in file.read(tail):
            raise ValueError(f"the compressed data at byte {start} are cut off")


def missing_bytes(path: Path) -> int:
    """Return how many bytes a TIFF file lacks at its end at least; 0 for other files.

    The offsets of the levels are read, not their pixels. Files of Hamamatsu, whose offsets are
    none of TIFF's, are left to OpenSlide.
    """
    try:
        import tifffile
    except ImportError as error:
        raise ValueError(f"{path}: tifffile is missing; {INSTALL}") from error
    try:
        with tifffile.TiffFile(path) as tiff:
            end = 0 if tiff.is_ndpi else max(_ends(tiff))
    except (
        Exception
    ):  # no TIFF file, or none that tifffile can follow: the readers say what is wrong
        return 0
    return max(0, end - path.stat().st_size)


def _ends(tiff: Any) -> list[int]:
    """Return the last byte of each level, and of the first page that lies past the end."""
    ends = [
        int((np.asarray(page.dataoffsets) + np.asarray(page.databytecounts)).max(initial=0))
        for page in tiff.pages
        if page.is_tiled or page.index == 0
    ]
    last, layout, file = tiff.pages[-1], tiff.tiff, tiff.filehandle
    file.seek(last.offset)
    tags = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))[0]
    file.seek(last.offset + layout.tagnosize + tags * layout.tagsize)
    following = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))[0]
    return [*ends, following + 1 if following >= file.size else 0]
