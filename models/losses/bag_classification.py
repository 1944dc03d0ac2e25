"""Classification loss of bags, shared by the multiple-instance models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.distributed import global_mean_count
from models.ops.precision import at_least_float32
from structures import MILTask


def bag_classification_loss(logits: Tensor, labels: Tensor, task: MILTask) -> Tensor:
    """Return the negative log-likelihood of each bag's label.

    The loss is computed from logits in at least float32, so no probability has to be clamped.

    Args:
        logits: (B, 1) log-odds of class 1 for ``binary``, else (B, C).
        labels: (B,) int64 classes, or (B, C) zeros and ones for ``multilabel``.
        task: what the logits mean.

    Returns:
        (B,) at least 0; for ``multilabel`` the mean over the C classes.
    """
    logits = at_least_float32(logits)
    if task == "multiclass":
        return F.cross_entropy(logits, labels, reduction="none")
    targets = labels.view(logits.shape).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def mean_over_bags(losses: Tensor) -> Tensor:
    """Average over the bags of a step on all processes.

    Processes may hold different numbers of bags: each divides by the average number, so that DDP's
    average of the gradients is the gradient of the mean over all bags. Without gradients, when
    processes may hold different numbers of batches and must not wait for one another, the result
    is the mean over the bags of this process.

    Args:
        losses: (B,).

    Returns:
        Scalar.
    """
    if not torch.is_grad_enabled():
        return losses.mean()
    count = torch.full((), losses.shape[0], device=losses.device)  # a fill, not a copy
    return losses.sum() / global_mean_count(count, losses.dtype)
