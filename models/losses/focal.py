"""Focal loss of logits with a sigmoid (Lin et al. 2017, arXiv 1708.02002, eq. 5), and its cost.

    FL = -alpha_t (1 - p_t)^gamma log p_t,   p_t = p for a target of 1, else 1 - p

The cost of a class in an assignment (Deformable DETR) is what the loss would change if the class
became the target: FL for a target of 1 less FL for a target of 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from models.ops.precision import at_least_float32

_EPSILON = 1e-8  # added to probabilities before a logarithm, as in the cost of Deformable DETR


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Return the focal loss of each element.

    Args:
        logits: any shape.
        targets: the same shape, in [0, 1].
        alpha: weight of a target of 1; that of 0 has 1 - alpha. Negative for no weights.
        gamma: exponent, 0 or at least 1.

    Returns:
        The same shape, at least float32.

    >>> import torch
    >>> sigmoid_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))  # .25 and .75 x .25 log 2
    tensor([0.0433, 0.1300])
    """
    logits = at_least_float32(logits)
    targets = targets.to(logits.dtype)
    probs = logits.sigmoid()
    missing = probs + targets - 2 * probs * targets  # 1 - p_t
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = entropy * missing**gamma
    return loss if alpha < 0 else loss * (alpha * targets + (1 - alpha) * (1 - targets))


def focal_cost(logits: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the cost of every class, FL of a target of 1 less FL of a target of 0.

    Args:
        logits: any shape.
        alpha: as in ``sigmoid_focal_loss``.
        gamma: exponent.

    Returns:
        The same shape, at least float32.
    """
    probs = at_least_float32(logits).sigmoid()
    positive = alpha * (1 - probs) ** gamma * -(probs + _EPSILON).log()
    negative = (1 - alpha) * probs**gamma * -(1 - probs + _EPSILON).log()
    return positive - negative
