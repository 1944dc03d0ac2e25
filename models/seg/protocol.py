"""Protocols of segmentation models in training, evaluation and export."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from structures import Instances, SegBatch

Reduction = Literal["mean", "none"]


@runtime_checkable
class SegModel(Protocol):
    """Contract of a segmentation model (see docs/ARCHITECTURE.md).

    Attributes:
        max_dets: largest number of predictions per image, also used by evaluation.
    """

    max_dets: int

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return unweighted loss terms by name, in training and in eval mode.

        Args:
            batch: images with targets; images without instances are allowed.
            reduction: ``mean`` gives scalars; ``none`` gives (B,) values, each equal to the
                scalar of a batch that holds this image alone.
            key: seed of random choices (RoI sampling), together with each image's ``index``.
        """
        ...

    def predict(self, batch: SegBatch) -> list[Instances]:
        """Return the predictions of each image in its original frame, best score first."""
        ...


@runtime_checkable
class UsesClassWeights(Protocol):
    """Segmentation model whose classification loss can weight classes.

    Every example of the loss is multiplied by the weight of its class, background by 1, and the
    denominator stays what it is without weights (A334).
    """

    def set_class_weights(self, weights: Tensor) -> None:
        """Set the weight of each class, (C,) positive."""
        ...


@runtime_checkable
class FollowsTraining(Protocol):
    """Model whose network changes in the course of a training.

    What ``set_progress`` sets is state in buffers of integers, which a checkpoint holds and which
    averages of weights leave alone.
    """

    def set_progress(self, progress: float) -> None:
        """Set what holds after a part of the optimizer steps, in [0, 1].

        Called when a training begins or is resumed and after each optimizer step.
        """
        ...


@runtime_checkable
class UpdatesAfterStep(Protocol):
    """Model with a memory between steps, such as a queue or a bank of embeddings.

    ``losses`` reads the memory and changes nothing that a checkpoint holds. Where gradients are
    enabled it keeps, detached, what the memory needs of its batch.
    """

    def update_after_step(self) -> None:
        """Update the memory by what all processes kept since the last call.

        Called on every process after each optimizer step, however many batches it accumulates. The
        memory is equal on all processes and is held in buffers.
        """
        ...


@runtime_checkable
class TimedSegModel(SegModel, Protocol):
    """Model whose prediction has two parts that can be timed separately.

    ``predict(batch)`` is ``instances(network_outputs(batch), batch)``, without gradients.
    """

    def network_outputs(self, batch: SegBatch) -> Any:
        """Return the outputs of all learned layers, on the model's device.

        Includes padding and normalisation of the images, and every choice that a later layer
        depends on: the mask head of Mask R-CNN needs the boxes after suppression.
        """
        ...

    def instances(self, outputs: Any, batch: SegBatch) -> list[Instances]:
        """Return the predictions, computed from the outputs of the last learned layer.

        Args:
            outputs: output of ``network_outputs`` for the same batch.
            batch: batch whose sizes are read; images and targets are not.
        """
        ...
