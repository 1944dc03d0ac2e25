"""Logits of an average of predictions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.precision import at_least_float32
from structures import MILTask


def logits_of_mean_probability(logits: Tensor, task: MILTask) -> Tensor:
    """Return logits whose predictions are the mean predictions of several.

    What is averaged are probabilities, those of survival S_k and of grades too, log-risks of
    ``cox`` and values of ``regression``.

    Args:
        logits: (B, K, C) logits of K predictions.
        task: what the logits mean.

    Returns:
        (B, C), in float32 at least: log-odds of the mean probability; for ``multiclass`` its
        logarithm; for ``cox`` and ``regression`` the mean.

    >>> import torch
    >>> logits = torch.tensor([0.9, 0.2]).logit().view(1, 2, 1)
    >>> logits_of_mean_probability(logits, "binary").sigmoid()
    tensor([[0.5500]])
    """
    logits = at_least_float32(logits)
    if task in ("cox", "regression"):
        return logits.mean(dim=1)
    if task == "discrete_time":
        return _of_mean_chain(logits)
    if task == "ordinal":  # sigmoid(-l) is the probability of stopping at a grade
        return -_of_mean_chain(-logits)
    if task == "multiclass":
        return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])
    return F.logsigmoid(logits).logsumexp(dim=1) - F.logsigmoid(-logits).logsumexp(dim=1)


def _of_mean_chain(logits: Tensor) -> Tensor:
    """Return log-odds of h_k = 1 - S_k / S_(k-1), S the mean over the K predictions, (B, C).

    S_(k-1) - S_k is the mean probability of stopping at step k, which is added up as such, so that
    a small h does not cancel.

    Args:
        logits: (B, K, C) log-odds of stopping at each step that is reached.
    """
    passed = F.logsigmoid(-logits).cumsum(dim=2)  # log S_k
    reached = torch.cat([torch.zeros_like(passed[:, :, :1]), passed[:, :, :-1]], dim=2)
    return (reached + F.logsigmoid(logits)).logsumexp(dim=1) - passed.logsumexp(dim=1)
