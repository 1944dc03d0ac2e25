"""Images of RAW files in the form of `unprocess` and `demosaic`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from datamodules.transforms.raw.pipeline import demosaic
from formats.raw_files import RAW_SUFFIXES, read_raw

# Mean of the RAW data that `unprocess` makes of photographs (coco_small) and of digit scenes.
_USUAL_MEAN = 0.14


def read_linear(path: Path) -> npt.NDArray[np.float32]:
    """Return a RAW file as red, green and blue of the sensor, at its full size and upright.

    Black and white level become 0 and 255, and no bits are lost. An image that is darker than
    usual is multiplied by one factor, which makes its mean that of the images of ordinary light
    that networks of RAW data are trained on (A495).

    Returns:
        (h, w, 3) float32 in [0, 255].

    Raises:
        ValueError: see `formats.raw_files.read_raw`.
    """
    raw = read_raw(path)
    (height, width), top, left = raw.size, raw.top, raw.left
    full = demosaic(torch.from_numpy(raw.planes)[None])[0]
    image = full[:, top : top + height, left : left + width].permute(1, 2, 0).numpy() * 255
    image = np.ascontiguousarray(np.rot90(image, raw.turns), dtype=np.float32)
    mean = float(image.mean()) / 255
    if 0 < mean < _USUAL_MEAN:
        np.minimum(image * (_USUAL_MEAN / mean), 255, out=image)
    return image


def all_raw(place: Path, files: Sequence[Path | str], channels: int) -> bool:
    """Return whether the images of a folder or of an annotation file are RAW files.

    Args:
        place: for the messages.
        files: the images.
        channels: of the images that the network takes.

    Raises:
        ValueError: some are RAW files and some are not, or the network takes four channels.
    """
    count = sum(str(file).lower().endswith(RAW_SUFFIXES) for file in files)
    if count and count < len(files):
        raise ValueError(
            f"{place} has {count} RAW files beside {len(files) - count} other images; keep them in "
            "data sets of their own"
        )
    if count and channels == 4:
        raise ValueError(
            f"{place} has RAW files, which are read as three channels, but the model takes four "
            "(low_light.input raw4); use a model of raw3 or srgb"
        )
    return count > 0
