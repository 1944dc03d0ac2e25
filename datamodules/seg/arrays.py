"""Images in memory, without annotations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.seg.dataset import AnnotatedImage
from datamodules.transforms.label_maps import LabelMaps


@dataclass(frozen=True)
class ImageArrays:
    """Source of images of one size without instances.

    Attributes:
        images: (n, h, w, 3) uint8 RGB.
    """

    images: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> AnnotatedImage:
        """Return one image without instances."""
        image, nothing = self.images[index], np.zeros(0, dtype=np.int64)
        maps = LabelMaps(np.zeros((0, *image.shape[:2]), dtype=np.uint8), nothing, nothing)
        return AnnotatedImage(image, maps, nothing, nothing.astype(bool), index, f"image {index}")

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return (n, 2), height and width."""
        return np.tile(np.array(self.images.shape[1:3], dtype=np.int64), (len(self), 1))

    def counts(self) -> npt.NDArray[np.int64]:
        """Return (n,) zeros."""
        return np.zeros(len(self), dtype=np.int64)

    def objects(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return two empty arrays."""
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
