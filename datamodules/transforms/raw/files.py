"""Images of RAW files in the form of `unprocess` and `demosaic`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from datamodules.transforms.raw.pipeline import demosaic
from formats.raw_files import read_raw


def read_linear(path: Path) -> npt.NDArray[np.float32]:
    """Return a RAW file as red, green and blue of the sensor, at its full size and upright.

    Black and white level become 0 and 255; nothing is brightened (A495), and no
    bits are lost.

    Returns:
        (h, w, 3) float32 in [0, 255].

    Raises:
        ValueError: see `formats.raw_files.read_raw`.
    """
    raw = read_raw(path)
    (height, width), top, left = raw.size, raw.top, raw.left
    full = demosaic(torch.from_numpy(raw.planes)[None])[0]
    image = full[:, top : top + height, left : left + width].permute(1, 2, 0).numpy() * 255
    return np.ascontiguousarray(np.rot90(image, raw.turns), dtype=np.float32)
