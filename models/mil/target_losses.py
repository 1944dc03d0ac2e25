"""Other losses of times and values, around any model.

Each only replaces the term ``bag`` of the model that it wraps, as the losses for unequal classes do
(`models.mil.imbalance`); further terms are unchanged:

    BreslowCox          all events at one time see the same risk set (Breslow 1974), where the model
                        itself uses Efron's approximation
    CensoringWeighted   censored bags count 1 - alpha, those with an event 1: the loss
                        (1 - alpha) (l_censored + l_event) + alpha l_event of Zadeh & Schmid 2020
                        (10.1109/TPAMI.2020.2979450), as in MCAT and PANTHER; the mean is over all
                        bags
    HuberRegression     e^2 / 2 up to delta, then delta (|e| - delta / 2), e in coded units

(formulas: `models.losses.survival`).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from models.losses.bag_loss import bag_loss, cox_bag_loss
from models.losses.survival import Ties, regression_loss
from models.mil.around_model import AroundModel
from models.mil.protocol import ModelFactory
from structures import MILOutput, MILTask


class _TargetLoss(AroundModel):
    """Base of losses of one task.

    Args:
        in_features: width of an instance's features.
        num_classes: bins or targets of the task.
        task: what the logits mean.
        learner: constructor of the model whose loss is replaced.

    Attributes:
        for_task: the task that the loss is of.

    Raises:
        ValueError: the loss is of another task.
    """

    for_task: ClassVar[MILTask]

    def __init__(
        self, in_features: int, num_classes: int, task: MILTask, *, learner: ModelFactory
    ) -> None:
        if task != self.for_task:
            raise ValueError(
                f"{type(self).__name__} is a loss of the task {self.for_task}, not of {task}; use "
                "the model that it wraps without it"
            )
        super().__init__(in_features, num_classes, task, learner=learner)


class BreslowCox(_TargetLoss):
    """Model whose partial likelihood treats tied events by Breslow's approximation.

    Args:
        in_features: width of an instance's features.
        num_classes: 1.
        task: ``cox``.
        learner: constructor of the model whose loss is replaced.
    """

    for_task = "cox"
    ties: Ties = "breslow"

    def bag_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each bag's share of the loss, (B,)."""
        return cox_bag_loss(logits, labels, self.ties)


def ties_of(model: nn.Module) -> Ties:
    """Return the treatment of ties in the term ``bag`` of a Cox model."""
    return next((part.ties for part in model.modules() if isinstance(part, BreslowCox)), "efron")


def risks_of_terms(model: nn.Module, output: MILOutput) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return the log-risks that the terms of a Cox model compare, see `MILOutput.supervised`.

    A model in `BreslowCox` compares its prediction.
    """
    risks = output.supervised()
    wrapped = any(isinstance(part, BreslowCox) for part in model.modules())
    return risks | {"bag": (output.logits, None)} if wrapped else risks


class CensoringWeighted(_TargetLoss):
    """Model whose loss counts censored bags less than those with an event.

    Args:
        in_features: width of an instance's features.
        num_classes: K bins.
        task: ``discrete_time``.
        learner: constructor of the model whose loss is replaced.
        alpha: in [0, 1]; 0 gives the likelihood, 1 leaves censored bags out.

    Raises:
        ValueError: alpha is out of range.
    """

    for_task = "discrete_time"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        learner: ModelFactory,
        alpha: float,
    ) -> None:
        super().__init__(in_features, num_classes, task, learner=learner)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha lies in [0, 1], got {alpha}")
        self.alpha = alpha

    def bag_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss of each bag, (B,)."""
        losses = bag_loss(logits, labels, self.task)
        censored = (labels[:, 1] == 0).to(losses.device)
        return losses * (1 - self.alpha * censored.to(losses.dtype))


class HuberRegression(_TargetLoss):
    """Model of values whose large errors count linearly.

    Args:
        in_features: width of an instance's features.
        num_classes: T targets.
        task: ``regression``.
        learner: constructor of the model whose loss is replaced.
        delta: error in deviations of the training bags up to which it counts as a square, positive.

    Raises:
        ValueError: delta is not positive.
    """

    for_task = "regression"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        learner: ModelFactory,
        delta: float = 1.0,
    ) -> None:
        super().__init__(in_features, num_classes, task, learner=learner)
        if delta <= 0:
            raise ValueError(f"delta is positive, got {delta}")
        self.delta = delta

    def bag_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the Huber loss of each bag, (B,)."""
        return regression_loss(logits, labels, self.delta)
