"""What every segmentation model offers to training, evaluation and export."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from structures import Instances, SegBatch

Reduction = Literal["mean", "none"]


@runtime_checkable
class SegModel(Protocol):
    """Contract of a segmentation model (see docs/ARCHITECTURE.md).

    Attributes:
        max_dets: cap on predictions a picture; evaluation follows it.
    """

    max_dets: int

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return unweighted loss terms by name, in training and in eval mode alike.

        Args:
            batch: pictures with targets; pictures without instances are ordinary.
            reduction: ``mean`` gives scalars; ``none`` gives (B,) values, each equal to the
                scalar of a batch that holds this picture alone.
            key: seeds random choices (RoI sampling) together with each picture's ``index``.
        """
        ...

    def predict(self, batch: SegBatch) -> list[Instances]:
        """Return the predictions of each picture in its original frame, best score first."""
        ...
