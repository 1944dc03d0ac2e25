"""Protocols of multiple-instance models in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from models.ops.precision import as_float64
from structures import BagBatch, MILOutput, MILTask
from structures.tasks import CLASS_TASKS

Reduction = Literal["mean", "none"]
# Constructor of a model that another model wraps: called with in_features, num_classes and task,
# which are known from the data; the recipe sets the other arguments.
ModelFactory = Callable[[int, int, MILTask], nn.Module]


@runtime_checkable
class MILModel(Protocol):
    """Contract of a MIL model (see docs/ARCHITECTURE.md).

    Attributes:
        task: what the logits mean; stored, never inferred from their number. ``binary``: one
            logit, the log-odds of class 1; ``multiclass``: softmax over C; ``multilabel``: C
            independent sigmoids; for the others see `MILOutput`.
    """

    task: MILTask

    def __call__(self, bags: BagBatch) -> MILOutput:
        """Return the output for packed bags; same type in training and evaluation."""
        ...

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return unweighted loss terms by name; ``none`` gives one value per bag, (B,)."""
        ...


@runtime_checkable
class TwoPartModel(MILModel, Protocol):
    """Model in two parts, between which a wrapper can choose instances.

    ``model(bags)`` is ``pool(embed_bags(bags))``.
    """

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with each instance embedded by itself: features (N, E)."""
        ...

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return the output for bags of any subset of the embedded instances."""
        ...


@runtime_checkable
class ScoresInstances(Protocol):
    """Model that scores instances by the class they are evidence for."""

    def class_scores(self, bags: BagBatch, output: MILOutput) -> Tensor:
        """Return the probability of the class that each instance is evidence for, (N,).

        Args:
            bags: bags of embedded instances.
            output: output of ``pool`` for these bags.
        """
        ...


@runtime_checkable
class ScheduledLosses(Protocol):
    """Model whose loss terms change their weights during training."""

    def loss_factors(self, progress: float) -> dict[str, float]:
        """Return factors of the loss terms, applied in addition to those of the recipe.

        A term that is not named keeps the factor 1. ``progress`` is the fraction of the training
        that is done, in [0, 1].
        """
        ...


@runtime_checkable
class UsesTrainingBags(Protocol):
    """Model that needs the training bags before training starts."""

    def set_training_bags(self, numbers: Tensor, labels: Tensor, sizes: Tensor) -> None:
        """Set index (``BagBatch.index``), label and number of instances of each bag, all (n,).

        Labels are (n, C) zeros and ones for ``multilabel``.
        """
        ...


# Method ``leave_one_out(bags)`` of models whose logits are linear in pooled embeddings: (N, C) what
# each logit of a bag loses without each of its instances. Models that wrap another have it as a
# property, None where the wrapped model has none.
LeaveOneOut = Callable[[BagBatch], Tensor]


def leave_one_out_of(model: nn.Module) -> LeaveOneOut | None:
    """Return the method `LeaveOneOut` of a model, or None."""
    found: LeaveOneOut | None = getattr(model, "leave_one_out", None)
    return found


def num_logits(num_classes: int, task: MILTask) -> int:
    """Return the number of logits: one for a binary task, otherwise one per class.

    ``cox`` has one, ``discrete_time`` one per bin, ``regression`` one per target, ``ordinal`` one
    less than grades.

    Raises:
        ValueError: there is no class, or the task does not allow this number of classes.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be positive, got {num_classes}")
    if task == "binary" and num_classes != 2:
        raise ValueError(f"a binary task has 2 classes, got num_classes={num_classes}")
    if task == "cox" and num_classes != 1:
        raise ValueError(f"a model of the task cox has 1 output, got num_classes={num_classes}")
    if task == "ordinal" and num_classes < 2:
        raise ValueError(f"an ordinal task has 2 grades or more, got num_classes={num_classes}")
    if task == "ordinal":
        return num_classes - 1
    return 1 if task == "binary" else num_classes


def class_targets(labels: Tensor, num_classes: int, task: MILTask) -> Tensor:
    """Return the classes of each bag as (B, C) zeros and ones in float32, also for binary tasks.

    Args:
        labels: (B,) classes, or (B, C) for ``multilabel``; -1, an unknown one, is no class.
        num_classes: C.
        task: what the labels mean.
    """
    if task == "multilabel":
        return labels.float()
    classes = torch.arange(num_classes, device=labels.device)
    return (labels.unsqueeze(1) == classes).float()


def class_probability(logits: Tensor, task: MILTask) -> Tensor:
    """Return the probability of the most probable class of each row of logits.

    Args:
        logits: (N, C), for ``binary`` (N, 1) log-odds.
        task: what the logits mean.

    Returns:
        (N,) float64: the contributions of 100 000 instances to a logit are so small that float32
        distinguishes only a few dozen of their probabilities. For ``binary``, the probability of
        the more probable of the two classes, as a softmax over two logits gives; for
        ``multilabel``, of the most probable class (A116). On the host if the device has no float64.
        For the other tasks no probability but `target_evidence`: a softmax over one logit is
        constant.
    """
    if task not in CLASS_TASKS:
        return target_evidence(logits, task)
    logits = as_float64(logits)
    if task == "multiclass":
        return logits.softmax(dim=1).amax(dim=1)
    return (logits.abs() if task == "binary" else logits).sigmoid().amax(dim=1)


def target_evidence(added: Tensor, task: MILTask) -> Tensor:
    """Return how much each row speaks for an early event, a high grade or any value, (N,) float64.

    The sum of its contributions to the logits, of values that of their sizes (A745).

    Args:
        added: (N, C) contributions of instances to the logits.
        task: ``cox``, ``discrete_time``, ``ordinal`` or ``regression``.
    """
    added = as_float64(added)
    return (added.abs() if task == "regression" else added).sum(dim=1)


def positive_widths(**widths: int | Sequence[int]) -> None:
    """Check that widths and counts are positive.

    Raises:
        ValueError: a value is below 1; the message names it.
    """
    for name, value in widths.items():
        values = [value] if isinstance(value, int) else list(value)
        if any(v < 1 for v in values):
            raise ValueError(f"{name} must be positive, got {value}")
