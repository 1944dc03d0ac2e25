"""Classification losses for unequal class frequencies, around any model.

These are the baselines of supervised contrastive learning. Each only replaces the term ``bag`` of
the model that it wraps:

    focal             -(1 - p_t)^gamma log p_t             Lin et al. 2017, arXiv 1708.02002
    class-weighted    -w_c log p_t, w_c = n / (C n_c)      or by Cui et al. 2019, arXiv 1901.05555
    logit adjustment  -log p_t of logits + tau log n_c/n   Menon et al. 2021, arXiv 2007.07314

(formulas: `models.losses.imbalance`). Further terms of the model are unchanged. A fourth baseline,
balanced sampling, only needs the datamodule's ``sampler``.

The number of training bags of each class is set before training, is the same on all processes and
is a buffer, so that checkpoints contain it. Until it is set, classes count as equally frequent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.losses.imbalance import (
    class_counts,
    focal_loss,
    inverse_frequency_weights,
    logit_adjusted_loss,
    weighted_loss,
)
from models.mil.around_model import AroundModel
from models.mil.protocol import ModelFactory
from structures import MILTask
from structures.tasks import CLASS_TASKS


class _ClassLoss(AroundModel):
    """Base of losses of classes, which knows the training bags of each.

    Args:
        in_features: width of an instance's features.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: what the logits mean.
        learner: constructor of the model whose loss is replaced.

    Raises:
        ValueError: the task has no classes, or their order is what counts.
    """

    counts: Tensor

    def __init__(
        self, in_features: int, num_classes: int, task: MILTask, *, learner: ModelFactory
    ) -> None:
        if task not in CLASS_TASKS:
            raise ValueError(
                f"{type(self).__name__} changes the loss of classes by their frequency, and the "
                f"task {task} has another loss; use the model that it wraps without it"
            )
        super().__init__(in_features, num_classes, task, learner=learner)
        self.num_classes = num_classes
        shape = (num_classes, 2) if task == "multilabel" else (num_classes,)
        self.register_buffer("counts", torch.zeros(shape, dtype=torch.int64))

    def set_training_bags(self, numbers: Tensor, labels: Tensor, sizes: Tensor) -> None:
        """Count the training bags of each class."""
        self.counts.copy_(class_counts(labels, self.num_classes, self.task))
        super().set_training_bags(numbers, labels, sizes)


class FocalMIL(_ClassLoss):
    """Model with the focal loss, which down-weights bags that are already classified well.

    Args:
        in_features: width of an instance's features.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: what the logits mean.
        learner: constructor of the model whose loss is replaced.
        gamma: at least 0; 0 gives the plain loss.
        alpha: weight of class 1, with 1 - alpha for class 0; None for weight 1. Not for
            ``multiclass``.

    Raises:
        ValueError: gamma or alpha is out of range, or alpha is given for ``multiclass``.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        learner: ModelFactory,
        gamma: float = 2.0,
        alpha: float | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, task, learner=learner)
        if gamma < 0 or not 0 < (0.5 if alpha is None else alpha) < 1:
            raise ValueError(f"gamma is at least 0 and alpha in (0, 1), got {gamma} and {alpha}")
        if alpha is not None and task == "multiclass":
            raise ValueError("alpha weights two classes against each other; omit it for multiclass")
        self.gamma, self.alpha = gamma, alpha

    def bag_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the focal loss of each bag, (B,)."""
        return focal_loss(logits, labels, self.task, self.gamma, self.alpha)


class ClassWeightedMIL(_ClassLoss):
    """Model whose loss weights bags by the inverse frequency of their class.

    Args:
        in_features: width of an instance's features.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: what the logits mean.
        learner: constructor of the model whose loss is replaced.
        beta: beta of the effective number of bags, in (0, 1); None for the number of bags.

    Raises:
        ValueError: beta is out of range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        learner: ModelFactory,
        beta: float | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, task, learner=learner)
        if beta is not None and not 0 < beta < 1:
            raise ValueError(f"beta lies in (0, 1), or null for inverse frequencies; got {beta}")
        self.beta = beta

    def bag_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss of each bag, (B,)."""
        weights = inverse_frequency_weights(self.counts, self.beta)
        return weighted_loss(logits, labels, self.task, weights)


class LogitAdjustedMIL(_ClassLoss):
    """Model whose loss adds the logarithm of the class frequencies to the logits.

    Args:
        in_features: width of an instance's features.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: what the logits mean.
        learner: constructor of the model whose loss is replaced.
        tau: factor of the logarithm.

    Raises:
        ValueError: tau is negative.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        learner: ModelFactory,
        tau: float = 1.0,
    ) -> None:
        super().__init__(in_features, num_classes, task, learner=learner)
        if tau < 0:
            raise ValueError(f"tau is at least 0, got {tau}")
        self.tau = tau

    def bag_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the adjusted loss of each bag, (B,)."""
        return logit_adjusted_loss(logits, labels, self.task, self.counts, self.tau)
