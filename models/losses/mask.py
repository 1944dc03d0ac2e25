"""Losses of masks at points: binary cross-entropy and dice, of pairs and of all pairs.

With logits x, probabilities s = sigmoid(x), targets t in [0, 1] and P points:

    BCE  = 1/P sum_p softplus(x_p) - t_p x_p
    dice = 1 - (2 sum_p s_p t_p + 1) / (sum_p s_p + sum_p t_p + 1)        (Milletari et al. 2016)

The first is -t log s - (1 - t) log(1 - s), so that all pairs need one softplus of every logit and
one product.

Letters: N masks, Q predicted masks, M true masks, P points.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from models.ops.precision import at_least_float32


def mask_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy of each mask, the mean over its points.

    Args:
        logits: (N, P).
        targets: (N, P) in [0, 1].

    Returns:
        (N,) at least float32.
    """
    logits = at_least_float32(logits)
    targets = targets.to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the dice loss of each mask.

    Args:
        logits: (N, P).
        targets: (N, P) in [0, 1].

    Returns:
        (N,) in [0, 1), at least float32.

    >>> import torch
    >>> dice_loss(torch.full((1, 4), 50.0), torch.tensor([[1, 1, 0, 0]]))  # 1 - 5 / 7
    tensor([0.2857])
    """
    probs = at_least_float32(logits).sigmoid()
    targets = targets.to(probs.dtype)
    common = (probs * targets).sum(dim=1)
    return 1 - (2 * common + 1) / (probs.sum(dim=1) + targets.sum(dim=1) + 1)


def pairwise_mask_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``mask_bce`` and ``dice_loss`` of every pair of a prediction and a true mask.

    Args:
        logits: (P, Q) float, points first.
        targets: (P, M) of the same dtype, in [0, 1].

    Returns:
        (Q, M) and (Q, M).
    """
    points = logits.shape[0]
    probs = logits.sigmoid()
    bce = (F.softplus(logits).sum(dim=0)[:, None] - logits.T @ targets) / points
    common, total = probs.T @ targets, probs.sum(dim=0)[:, None] + targets.sum(dim=0)
    return bce, 1 - (2 * common + 1) / (total + 1)
