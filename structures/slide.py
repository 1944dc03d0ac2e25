"""Tissue patches of a whole-slide image, and a batch of patch images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
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
        slide_id: name of the slide.
        tissue_mm2: area of its tissue.

    Raises:
        ValueError: a non-positive resolution or patch size, or coordinates of another shape.
    """

    path: Path
    mpp: float
    coords: Tensor
    patch_size: int
    slide_id: str = ""
    tissue_mm2: float = 0.0

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
    """Images of patches of one slide with their coordinates.

    Attributes:
        images: (P, 3, H, W) RGB, float in [0, 1] or uint8 in [0, 255], as slides have it.
        coords: (P, 2) int64, level-0 pixels (x, y).
        slide_id: name of the slide.
        first: number of the first patch among those of the slide.
        patches: number of patches of the whole slide; its batches come in order.
        fault: why the patches cannot be read, or an empty text. There are no images then.
        versions: (K, P, 3, H, W) augmented versions of the images, of the same type, or None.
    """

    images: Tensor
    coords: Tensor
    slide_id: str = ""
    first: int = 0
    patches: int = 0
    fault: str = ""
    versions: Tensor | None = None

    def __post_init__(self) -> None:
        check_field("PatchBatch", "images", self.images, ("P", 3, "H", "W"))
        check_field("PatchBatch", "coords", self.coords, (self.images.shape[0], 2))
        if self.images.dtype != torch.uint8:
            check_dtype("PatchBatch", "images", self.images, "float")
        if self.versions is not None:
            check_field("PatchBatch", "versions", self.versions, ("K", *self.images.shape))

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def pixels(self) -> Tensor:
        """Return the images as (P, 3, H, W) float in [0, 1]."""
        return _in_unit_range(self.images)

    def pixels_of_versions(self) -> list[Tensor]:
        """Return each augmented version of the images as (P, 3, H, W) float in [0, 1]."""
        versions = () if self.versions is None else self.versions
        return [_in_unit_range(images) for images in versions]


def _in_unit_range(images: Tensor) -> Tensor:
    return images.float().div_(255) if images.dtype == torch.uint8 else images
