"""Reading RAW files of cameras (CR2, NEF, DNG) with rawpy, which the extra ``raw`` installs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from formats.image_limits import check_size

RAW_SUFFIXES = (".cr2", ".nef", ".dng")
_TURNS = {0: 0, 3: 2, 5: 1, 6: 3}  # LibRaw's orientation -> quarter turns against the clock


class RawImage(NamedTuple):
    """What a sensor has recorded.

    Attributes:
        planes: (4, h, w) float32 in [0, 1], black to white level: R, Gr, B, Gb.
        top: rows of the mosaic above the image, 0 or 1, that were added so that it begins with red.
        left: columns that were added.
        size: (height, width) of the image in the mosaic.
        turns: quarter turns against the clock after which the image is upright.
    """

    planes: npt.NDArray[np.float32]
    top: int
    left: int
    size: tuple[int, int]
    turns: int


def is_raw(path: Path) -> bool:
    """Return whether a path has the suffix of a RAW file."""
    return path.suffix.lower() in RAW_SUFFIXES


def raw_size(path: Path, max_megapixels: float | None = None) -> tuple[int, int]:
    """Return (height, width) of the upright image.

    Raises:
        ValueError: rawpy is missing, or the file is missing, broken or too large.
    """
    with _opened(path) as raw:
        size, turns = (raw.sizes.height, raw.sizes.width), _turns(raw)
    check_size(path, size, max_megapixels)
    return size[::-1] if turns % 2 else size


def read_raw(path: Path) -> RawImage:
    """Return the RAW data of a file.

    Raises:
        ValueError: rawpy is missing, or the file is missing, broken or of a sensor without a
            pattern of 2 x 2 pixels.
    """
    with _opened(path) as raw:
        pattern, levels = raw.raw_pattern, raw.raw_image_visible
        if pattern is None or pattern.shape != (2, 2) or levels.ndim != 2:
            raise ValueError(f"{path} has no Bayer pattern; convert it to an ordinary image")
        colours = raw.raw_colors_visible[:2, :2]
        black = np.array(raw.black_level_per_channel, dtype=np.float32)
        values, white, turns = levels.astype(np.float32), float(raw.white_level), _turns(raw)
    top, left = (int(v[0]) for v in np.nonzero(colours == 0))
    for y, x in np.ndindex(2, 2):
        level = black[colours[y, x]]
        values[y::2, x::2] = (values[y::2, x::2] - level) / max(white - level, 1)
    height, width = values.shape
    bottom, right = (height + top) % 2, (width + left) % 2
    values = np.pad(values.clip(0, 1), ((top, bottom), (left, right)), mode="reflect")
    planes = [values[y::2, x::2] for y, x in ((0, 0), (0, 1), (1, 1), (1, 0))]
    return RawImage(np.stack(planes), top, left, (height, width), turns)


def read_developed(path: Path) -> npt.NDArray[np.uint8]:
    """Return the upright sRGB image that LibRaw develops, (h, w, 3), without brightening it.

    Raises:
        ValueError: rawpy is missing, or the file is missing or broken.
    """
    with _opened(path) as raw:
        turns = _turns(raw)
        image = raw.postprocess(use_camera_wb=True, no_auto_bright=True, user_flip=0)
    return np.ascontiguousarray(np.rot90(image, turns))


def _turns(raw: Any) -> int:
    return _TURNS.get(int(raw.sizes.flip), 0)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import rawpy
    except ImportError:
        raise ValueError(
            f"{path}: RAW files need rawpy; install it by `pip install -e '.[raw]'` in the "
            "clone, or convert the file to an ordinary image"
        ) from None
    if not path.is_file():
        raise ValueError(f"image file {path} is missing")
    try:
        with rawpy.imread(str(path)) as raw:
            yield raw
    except rawpy.LibRawError as error:
        reason = error.args[0] if error.args else type(error).__name__
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"RAW file {path} cannot be read: {text}; replace it") from None
