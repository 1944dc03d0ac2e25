"""The predicted instances of one image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from structures.rle import RLEMasks
from structures.transferable import Transferable, check_field


@dataclass(frozen=True, slots=True)
class Instances(Transferable):
    """K predictions in the coordinates of the original image, highest score first.

    Attributes:
        boxes: (K, 4) float, (x1, y1, x2, y2) in pixels of the original image.
        scores: (K,) in [0, 1].
        labels: (K,) int64, 0-based foreground class.
        size: (height, width) of the original image.
        masks: K run-length masks of that size, or None for a detector without masks. They stay on
            the host when the tensors are moved to another device.
        quality: (K,) predicted mask quality in [0, 1], or None.

    Raises:
        ValueError: lengths disagree or the masks have another size.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    size: tuple[int, int]
    masks: RLEMasks | None = None
    quality: Tensor | None = None

    def __post_init__(self) -> None:
        check_field("Instances", "boxes", self.boxes, ("K", 4))
        count = self.boxes.shape[0]
        check_field("Instances", "scores", self.scores, (count,))
        check_field("Instances", "labels", self.labels, (count,))
        if self.quality is not None:
            check_field("Instances", "quality", self.quality, (count,))
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"Instances has {count} boxes but {len(self.masks)} masks")
        if self.masks is not None and tuple(self.masks.size) != tuple(self.size):
            raise ValueError(f"masks of size {self.masks.size} in an image of size {self.size}")

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    @classmethod
    def empty(cls, size: tuple[int, int]) -> Instances:
        """Return an empty set of predictions for an image of ``size`` (height, width)."""
        return cls(
            boxes=torch.zeros(0, 4),
            scores=torch.zeros(0),
            labels=torch.zeros(0, dtype=torch.int64),
            size=size,
            masks=RLEMasks.from_runs([], size),
        )

    def select(self, keep: Tensor) -> Instances:
        """Return the predictions at the positions (or the True entries) of ``keep``."""
        positions = keep.nonzero().flatten() if keep.dtype == torch.bool else keep
        return dataclasses.replace(
            self,
            boxes=self.boxes[positions],
            scores=self.scores[positions],
            labels=self.labels[positions],
            masks=None if self.masks is None else self.masks.select(positions.tolist()),
            quality=None if self.quality is None else self.quality[positions],
        )
