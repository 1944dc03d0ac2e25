"""Files in the run folder: their location and the writing of images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from formats.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

State = TypeVar("State")


def run_folder(trainer: pl.Trainer, name: str) -> Path | None:
    """Return the folder ``<run>/name``, which is created when a file is written to it.

    Every process must call this function, because Lightning broadcasts the folder.

    Returns:
        The folder, or None if the trainer has neither a logger nor a default folder.
    """
    folder = trainer.log_dir
    return None if folder is None else Path(folder) / name


def write_png(
    path: Path,
    image: npt.NDArray[np.uint8],
    compression: int = 6,
    text: Mapping[str, str] | None = None,
) -> None:
    """Write an image, (H, W, 3) uint8 RGB, as a PNG file.

    Args:
        path: the file.
        image: the pixels.
        compression: 0 to 9; 3 takes a third of the time of 6 and a tenth more space.
        text: words by key, which other programs find in the file.
    """
    words = PngInfo()
    for key, value in (text or {}).items():
        words.add_text(key, value)
    with atomic_write(path) as file:
        Image.fromarray(image).save(file, format="PNG", compress_level=compression, pnginfo=words)


def rasterise(figure: Figure, dpi: int = 130) -> npt.NDArray[np.uint8]:
    """Return a figure as an image, (H, W, 3) uint8 RGB."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return np.asarray(Image.open(stream).convert("RGB"))
