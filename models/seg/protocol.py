"""What every segmentation model offers to training, evaluation and export."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from structures import Instances, SegBatch

Reduction = Literal["mean", "none"]


@runtime_checkable
class SegModel(Protocol):
    """Contract of a segmentation model (see docs/ARCHITECTURE.md).

    Attributes:
        max_dets: cap on predictions an image; evaluation follows it.
    """

    max_dets: int

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return unweighted loss terms by name, in training and in eval mode alike.

        Args:
            batch: images with targets; images without instances are ordinary.
            reduction: ``mean`` gives scalars; ``none`` gives (B,) values, each equal to the
                scalar of a batch that holds this image alone.
            key: seeds random choices (RoI sampling) together with each image's ``index``.
        """
        ...

    def predict(self, batch: SegBatch) -> list[Instances]:
        """Return the predictions of each image in its original frame, best score first."""
        ...


@runtime_checkable
class TimedSegModel(SegModel, Protocol):
    """A model whose predictions are made in two parts, so that each can be timed by itself.

    ``predict(batch)`` is ``instances(network_outputs(batch), batch)``, without gradients.
    """

    def network_outputs(self, batch: SegBatch) -> Any:
        """Return what the learned layers give, all of them, on the model's device.

        Padding and normalising images is part of it, and so is every choice that a later layer
        depends on: the mask head of Mask R-CNN needs the boxes that suppression leaves.
        """
        ...

    def instances(self, outputs: Any, batch: SegBatch) -> list[Instances]:
        """Return the predictions: everything after the last learned layer.

        Args:
            outputs: of ``network_outputs`` for the same batch.
            batch: gives the sizes; images and targets are not read.
        """
        ...
