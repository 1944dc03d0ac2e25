"""Smooth top-1 support-vector loss.

Berrada, Zisserman, Kumar, "Smooth Loss Functions for Deep Top-k Classification", ICLR 2018,
arXiv 1802.07595. The hinge loss of a multi-class support-vector machine takes the largest score
after a margin alpha is added to every wrong label; the smooth loss replaces the maximum by
tau log sum exp. With k = 1 the sets of k labels are the labels themselves, and

    l(s, y) = tau log sum_j exp( (s_j + alpha [j != y]) / tau ) - s_y

tau -> 0 gives the hinge max_j (s_j + alpha [j != y]) - s_y. For two labels the loss reduces to
tau softplus( (alpha + s_other - s_y) / tau ).
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.precision import at_least_float32


def smooth_top1_svm(scores: Tensor, labels: Tensor, tau: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Return the loss of every row of scores.

    The smooth form is always used, also where the margin is large and the hinge would be close.

    Args:
        scores: (..., C).
        labels: (...) int64 in [0, C), broadcastable with the leading axes of ``scores``.
        tau: temperature, positive.
        alpha: margin.

    Returns:
        (...), at least 0, in float32 at least.

    Raises:
        ValueError: tau is not positive.

    >>> smooth_top1_svm(torch.tensor([0.0, 1.0]), torch.tensor(1))  # log(1 + exp(1 + 0 - 1))
    tensor(0.6931)
    """
    if tau <= 0:
        raise ValueError(f"tau must be positive, got {tau}")
    scores = at_least_float32(scores)
    classes = torch.arange(scores.shape[-1], device=scores.device)
    wrong = classes != labels.unsqueeze(-1)  # (..., C)
    # Differences to the score of the label keep their precision for large scores.
    own = scores.masked_fill(wrong, 0.0).sum(dim=-1, keepdim=True)
    return tau * ((scores - own + alpha * wrong) / tau).logsumexp(dim=-1)
