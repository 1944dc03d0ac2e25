"""Logits of an average of predictions."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from models.ops.precision import at_least_float32
from structures import MILTask


def logits_of_mean_probability(logits: Tensor, task: MILTask) -> Tensor:
    """Return logits whose probabilities are the mean probabilities of several predictions.

    Args:
        logits: (B, K, C) logits of K predictions.
        task: what the logits mean.

    Returns:
        (B, C), in float32 at least: log-odds of the mean probability; for ``multiclass`` its
        logarithm.

    >>> import torch
    >>> logits = torch.tensor([0.9, 0.2]).logit().view(1, 2, 1)
    >>> logits_of_mean_probability(logits, "binary").sigmoid()
    tensor([[0.5500]])
    """
    logits = at_least_float32(logits)
    if task == "multiclass":
        return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])
    return F.logsigmoid(logits).logsumexp(dim=1) - F.logsigmoid(-logits).logsumexp(dim=1)
