"""What every multiple-instance model offers to training and evaluation."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from structures import BagBatch, MILOutput, MILTask

Reduction = Literal["mean", "none"]


@runtime_checkable
class MILModel(Protocol):
    """Contract of a MIL model (see docs/ARCHITECTURE.md).

    Attributes:
        task: what the logits mean; stored, never inferred from their number. ``binary``: one
            logit, the log-odds of class 1; ``multiclass``: softmax over C; ``multilabel``: C
            independent sigmoids.
    """

    task: MILTask

    def __call__(self, bags: BagBatch) -> MILOutput:
        """Return the output for packed bags; same type in training and evaluation."""
        ...

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return unweighted loss terms by name; ``none`` gives one value a bag, (B,)."""
        ...
