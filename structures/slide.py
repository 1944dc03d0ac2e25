"""Tissue patches of a whole-slide image, and a batch of patch images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from structures.transferable import Transferable, check_dtype, check_field


@dataclass(frozen=True, slots=True)
class Slide(Transferable):
    """A slide file and the coordinates of its tissue patches.

    Attributes:
        path: the slide file.
        mpp: micrometres per pixel at level 0, positive.
        coords: (P, 2) int64, level-0 pixels (x, y) of each patch's top-left corner.
        patch_size: side of a patch in level-0 pixels.

    Raises:
        ValueError: a non-positive resolution or patch size, or coordinates of another shape.
    """

    path: Path
    mpp: float
    coords: Tensor
    patch_size: int

    def __post_init__(self) -> None:
        if not self.mpp > 0:
            raise ValueError(f"Slide.mpp of {self.path} must be positive, got {self.mpp}")
        if self.patch_size < 1:
            raise ValueError(f"Slide.patch_size of {self.path} must be >= 1, got {self.patch_size}")
        check_field("Slide", "coords", self.coords, ("P", 2))
        check_dtype("Slide", "coords", self.coords, "integer")

    def __len__(self) -> int:
        return int(self.coords.shape[0])


@dataclass(frozen=True, slots=True)
class PatchBatch(Transferable):
    """Images of patches with their coordinates.

    Attributes:
        images: (P, 3, H, W) float RGB in [0, 1].
        coords: (P, 2) int64, level-0 pixels (x, y).
    """

    images: Tensor
    coords: Tensor

    def __post_init__(self) -> None:
        check_field("PatchBatch", "images", self.images, ("P", 3, "H", "W"))
        check_field("PatchBatch", "coords", self.coords, (self.images.shape[0], 2))
        check_dtype("PatchBatch", "images", self.images, "float")

    def __len__(self) -> int:
        return int(self.images.shape[0])
