"""Batches of patches, read from slide files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.wsi.planning import PatchKey
from formats.slides.pyramid import SlideFile, open_slide
from formats.slides.resolution import PatchReader
from structures import PatchBatch

OPENED = 2  # slides that a worker keeps open: the next one begins while another ends


class PatchImages(Dataset[PatchBatch]):
    """Reads the batch of a key; a worker process opens the files itself.

    A batch that cannot be read has no images but a fault, so that the other slides go on.

    Args:
        mpp: micrometres per pixel of the patches.
        patch_px: side of a patch in pixels.
    """

    def __init__(self, mpp: float, patch_px: int) -> None:
        self.mpp, self.patch_px = mpp, patch_px
        self._opened: dict[Path, tuple[SlideFile, PatchReader]] = {}

    def __getitem__(self, key: PatchKey) -> PatchBatch:
        count = 0 if key.fault else len(key.coords)
        images = np.empty((count, self.patch_px, self.patch_px, 3), np.uint8)
        fault = key.fault
        try:
            for number in range(count):
                x, y = key.coords[number].tolist()
                images[number] = self._reader(key).read(x, y)
        except (OSError, ValueError) as error:
            fault, images = str(error) or type(error).__name__, images[:0]
        return PatchBatch(  # channels last in memory, with which convolutions are quicker
            images=torch.from_numpy(images).permute(0, 3, 1, 2),
            coords=torch.from_numpy(key.coords[: len(images)].copy()),
            slide_id=key.slide_id,
            first=key.first,
            patches=key.patches,
            fault=fault,
        )

    def _reader(self, key: PatchKey) -> PatchReader:
        if key.path not in self._opened:
            while len(self._opened) >= OPENED:
                self._opened.pop(next(iter(self._opened)))[0].close()
            file = open_slide(key.path)
            reader = PatchReader(file, key.mpp, self.mpp, self.patch_px)
            self._opened[key.path] = file, reader
        return self._opened[key.path][1]
