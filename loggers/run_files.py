"""The files of a run: where they lie, writing them whole, gathering their content."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from PIL import Image

from formats.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

State = TypeVar("State")


def run_folder(trainer: pl.Trainer, name: str) -> Path | None:
    """Return ``<run>/name``; the folder is created when a file is written into it.

    Every process must call it: Lightning agrees on the folder by a broadcast.

    Returns:
        None where the trainer has no logger and no default folder.
    """
    folder = trainer.log_dir
    return None if folder is None else Path(folder) / name


def write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB as a PNG."""
    with atomic_write(path) as file:
        Image.fromarray(image).save(file, format="PNG")


def rasterise(figure: Figure, dpi: int = 130) -> npt.NDArray[np.uint8]:
    """Return a figure as (H, W, 3) uint8 RGB."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return np.asarray(Image.open(stream).convert("RGB"))
