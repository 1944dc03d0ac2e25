"""The files of a run: where they lie, writing them whole, gathering their content."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch.distributed as dist
from PIL import Image

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


@contextmanager
def written_whole(path: Path, durable: bool = False) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when the block ends without an error.

    A reader never sees half a file, and a run that dies keeps the previous one.

    Args:
        path: the file; missing parents are created.
        durable: wait until the disk has it, so that it also outlives a crash of the machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
        if durable:
            _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a change of names reach the disk; POSIX only, elsewhere folders cannot be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_picture(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB as a PNG."""
    with written_whole(path) as file:
        Image.fromarray(picture).save(file, format="PNG")


def rasterise(figure: Figure, dpi: int = 130) -> npt.NDArray[np.uint8]:
    """Return a figure as (H, W, 3) uint8 RGB."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return np.asarray(Image.open(stream).convert("RGB"))


def gather_to_first(state: State) -> list[State]:
    """Collect one picklable value a process on the first process.

    Every process must call it.

    Returns:
        The values in rank order on the first process, an empty list on the others; with one
        process a list of one.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [state]
    first = dist.get_rank() == 0
    states: list[State | None] | None = [None] * dist.get_world_size() if first else None
    dist.gather_object(state, states, dst=0)
    return [s for s in states or [] if s is not None]
