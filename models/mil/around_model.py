"""Base of wrappers that replace the loss of any model's prediction."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from models.losses.bag_loss import reduce_bag_loss
from models.mil.protocol import (
    LeaveOneOut,
    MILModel,
    ModelFactory,
    Reduction,
    ScheduledLosses,
    UsesTrainingBags,
    leave_one_out_of,
)
from structures import BagBatch, MILOutput, MILTask


class AroundModel(nn.Module):
    """Model whose term ``bag`` is replaced; subclasses give ``bag_losses``.

    Further terms of the wrapped model, and all that it offers, are unchanged.

    Args:
        in_features: width of an instance's features.
        num_classes: classes, bins or targets of the task.
        task: what the logits mean.
        learner: constructor of the model whose loss is replaced.
    """

    def __init__(
        self, in_features: int, num_classes: int, task: MILTask, *, learner: ModelFactory
    ) -> None:
        super().__init__()
        self.task: MILTask = task
        self.learner = learner(in_features, num_classes, task)
        self.permutation_invariant = getattr(self.learner, "permutation_invariant", True)
        self.joint_terms = getattr(self.learner, "joint_terms", ())

    def set_training_bags(self, numbers: Tensor, labels: Tensor, sizes: Tensor) -> None:
        """Pass the training bags on to a model that uses them."""
        if isinstance(self.learner, UsesTrainingBags):
            self.learner.set_training_bags(numbers, labels, sizes)

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return the model's output."""
        output: MILOutput = self.learner(bags)
        return output

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return the model's terms with ``bag`` replaced: scalars, or (B,)."""
        terms = cast(MILModel, self.learner).losses(output, bags, reduction)
        losses = self.bag_losses(output.logits, bags.labels)
        return terms | {"bag": reduce_bag_loss(losses, bags.labels, self.task, reduction)}

    @property
    def leave_one_out(self) -> LeaveOneOut | None:
        """That of the wrapped model."""
        return leave_one_out_of(self.learner)

    def loss_factors(self, progress: float) -> dict[str, float]:
        """Return the factors of the model's terms."""
        learner = self.learner
        return learner.loss_factors(progress) if isinstance(learner, ScheduledLosses) else {}

    def bag_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each bag, (B,)."""
        raise NotImplementedError
