"""Batches of patches, read from slide files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.transforms.stain import StainVersion
from datamodules.wsi.planning import PatchKey
from datamodules.wsi.stain import Stain
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
        stain: normalises the stain of the patches, or None.
    """

    def __init__(self, mpp: float, patch_px: int, stain: Stain | None = None) -> None:
        self.mpp, self.patch_px, self.stain = mpp, patch_px, stain
        self._opened: dict[Path, tuple[SlideFile, PatchReader]] = {}

    def __getitem__(self, key: PatchKey) -> PatchBatch:
        count = 0 if key.fault else len(key.coords)
        images = np.empty((count, self.patch_px, self.patch_px, 3), np.uint8)
        fault, changed = key.fault, None
        if self.stain is not None and key.stain is not None:
            changed = self.stain.transform(key.stain)
        try:
            for number in range(count):
                x, y = key.coords[number].tolist()
                image = self._reader(key).read(x, y)
                images[number] = image if changed is None else changed(image)
        except (OSError, ValueError) as error:
            fault, images = str(error) or type(error).__name__, images[:0]
        return PatchBatch(  # channels last in memory, with which convolutions are quicker
            images=torch.from_numpy(images).permute(0, 3, 1, 2),
            versions=_versions(images, key.versions),
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


def _versions(images: NDArray[np.uint8], versions: Sequence[StainVersion]) -> Tensor | None:
    """Return (K, P, 3, H, W) augmented versions of patches (P, H, W, 3); None for K = 0."""
    if not versions:
        return None
    found = np.empty((len(versions), *images.shape), np.uint8)
    for version, target in zip(versions, found, strict=True):
        change = version.density_map()
        for number, image in enumerate(images):
            target[number] = version.turned(change(image))
    return torch.from_numpy(found).permute(0, 1, 4, 2, 3)
