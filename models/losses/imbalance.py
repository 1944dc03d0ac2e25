"""Classification losses of bags for unequal class frequencies.

Each extends `bag_classification_loss`. ``binary`` is treated as a task of two classes, and
``multilabel`` as one binary task per class, over which the loss is averaged.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.precision import at_least_float32
from structures import MILTask


def class_counts(labels: Tensor, num_classes: int, task: MILTask) -> Tensor:
    """Count the bags of each class.

    Args:
        labels: (n,) classes, or (n, C) zeros and ones for ``multilabel``.
        num_classes: C.
        task: what the labels mean.

    Returns:
        (C,) int64; for ``multilabel`` (C, 2), bags without and with each class.
    """
    if task == "multilabel":
        with_class = labels.sum(dim=0)
        return torch.stack([labels.shape[0] - with_class, with_class], dim=1)
    return labels.bincount(minlength=num_classes)


def inverse_frequency_weights(counts: Tensor, beta: float | None = None) -> Tensor:
    """Return class weights whose mean over the bags is 1.

    Without beta, w_c is proportional to 1 / n_c, so w_c = n / (C n_c). With beta, it is
    proportional to (1 - beta) / (1 - beta^n_c), the inverse of the effective number of Cui et al.
    2019 (arXiv 1901.05555), eq. (2): beta near 0 gives weight 1 to all classes, beta near 1 the
    weights without beta. A class without bags is weighted as if it had one. Without any bag all
    weights are 1.

    Args:
        counts: (..., C) n_c.
        beta: in (0, 1), or None.

    >>> inverse_frequency_weights(torch.tensor([30, 10])).tolist()
    [0.6666666865348816, 2.0]
    """
    number = counts.clamp(min=1).float()
    effective = number if beta is None else torch.expm1(number * math.log(beta)).abs()
    weights = effective.reciprocal()  # a factor such as 1 - beta cancels below
    total = (counts * weights).sum(dim=-1, keepdim=True)
    every = counts.sum(dim=-1, keepdim=True)
    return torch.where(every > 0, weights * every / total, torch.ones_like(weights))


def weighted_loss(logits: Tensor, labels: Tensor, task: MILTask, weights: Tensor) -> Tensor:
    """Return the negative log-likelihood of each bag times the weight of its class.

    Args:
        logits: (B, 1) for ``binary``, else (B, C).
        labels: (B,), or (B, C) for ``multilabel``.
        task: what the logits mean.
        weights: (C,), or (C, 2) for ``multilabel``.

    Returns:
        (B,). The loss is not divided by the sum of the weights of the batch, so that a bag's loss
        does not depend on the other bags (A125).
    """
    return (_entries(logits, labels, task) * _of_labels(weights, labels, task)).mean(dim=1)


def focal_loss(
    logits: Tensor, labels: Tensor, task: MILTask, gamma: float = 2.0, alpha: float | None = None
) -> Tensor:
    """Return the focal loss -alpha_t (1 - p_t)^gamma log p_t of each bag.

    Lin et al. 2017 (arXiv 1708.02002), eqs. (4) and (5). p_t is the probability of the bag's label.

    Args:
        logits: (B, 1) for ``binary``, else (B, C).
        labels: (B,), or (B, C) for ``multilabel``.
        task: what the logits mean.
        gamma: at least 0; 0 gives the negative log-likelihood.
        alpha: weight of class 1, with 1 - alpha for class 0, for two classes; None for weight 1.

    Returns:
        (B,).
    """
    entries = _entries(logits, labels, task)  # -log p_t
    missing = -torch.expm1(-entries)  # 1 - p_t
    # At 0 the derivative of a root is infinite, and its product with 0 is NaN.
    factors = missing.clamp(min=torch.finfo(missing.dtype).tiny) ** gamma
    if alpha is not None:
        pair = torch.tensor([1 - alpha, alpha], device=logits.device, dtype=entries.dtype)
        factors = factors * _of_labels(pair, labels, task)
    return (factors * entries).mean(dim=1)


def logit_adjusted_loss(
    logits: Tensor, labels: Tensor, task: MILTask, counts: Tensor, tau: float = 1.0
) -> Tensor:
    """Return the negative log-likelihood of each bag under logits plus tau log prior.

    Menon et al. 2021 (arXiv 2007.07314), eq. (10). The unadjusted logits then predict the class of
    the largest likelihood, as if all classes were equally frequent.

    Args:
        logits: (B, 1) for ``binary``, else (B, C).
        labels: (B,), or (B, C) for ``multilabel``.
        task: what the logits mean.
        counts: (C,) bags of each class, or (C, 2) for ``multilabel``; 0 is treated as 1.
        tau: factor of the log prior; 1 for the prior itself.

    Returns:
        (B,).
    """
    logs = counts.clamp(min=1).to(at_least_float32(logits).dtype).log()
    # The softmax is invariant to the total number of bags, by which a prior would be divided.
    shift = logs if task == "multiclass" else logs[..., 1] - logs[..., 0]
    return _entries(at_least_float32(logits) + tau * shift, labels, task).mean(dim=1)


def _entries(logits: Tensor, labels: Tensor, task: MILTask) -> Tensor:
    """Return the negative log-likelihoods averaged in a bag's loss: (B, 1), or (B, C)."""
    logits = at_least_float32(logits)
    if task == "multiclass":
        return F.cross_entropy(logits, labels, reduction="none").unsqueeze(1)
    targets = labels.view(logits.shape).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _of_labels(values: Tensor, labels: Tensor, task: MILTask) -> Tensor:
    """Return the value of each label: (B, 1), or (B, C) for ``multilabel``.

    Args:
        values: (C,), or for ``multilabel`` (C, 2), or (2,) for all classes.
        labels: (B,), or (B, C).
        task: what the labels mean.
    """
    if task != "multilabel":
        return values[labels].unsqueeze(1)
    return torch.where(labels.bool(), values[..., 1], values[..., 0])
