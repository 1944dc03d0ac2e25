"""What weighted means of bags lose without one of their instances, in closed form.

A column's mean of a bag is v = sum_n a_n u_n with a = softmax(s). Without instance n the weights of
the others grow by 1 / (1 - a_n), so

    v - v_without_n = a_n / (1 - a_n) (u_n - v)

and a logit that is linear in pooled embeddings is the mean of its own value at each instance. In
float32 1 - a_n is inexact where a_n is near 1, which at most one instance of a bag is: for the one
with the largest weight the mean of the others is computed.

Letters: N instances of B bags, K maps of attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.bags.ragged import segment_ids, segment_softmax, segment_sum
from models.ops.bags.ragged_order import segment_topk
from models.ops.precision import at_least_float32


def leave_one_out(values: Tensor, attention_logits: Tensor, offsets: Tensor) -> Tensor:
    """Return what the weighted means of the values lose without each instance.

    Args:
        values: (N, C, K) u, whose last axis is that of the maps.
        attention_logits: (N, K) s, finite.
        offsets: (B + 1,) int64, no bag empty.

    Returns:
        (N, C, K) v - v_without_n; 0 for a bag of one instance, of which nothing is left (A650).

    >>> values, logits = torch.tensor([[[1.0]], [[4.0]]]), torch.zeros(2, 1)
    >>> leave_one_out(values, logits, torch.tensor([0, 2])).flatten().tolist()
    [-1.5, 1.5]
    """
    values, logits = at_least_float32(values), at_least_float32(attention_logits)
    ids = segment_ids(offsets, values.shape[0])
    weights = segment_softmax(logits, offsets)
    means = segment_sum(weights.unsqueeze(1) * values, offsets)  # (B, C, K)
    first = segment_topk(logits, offsets, 1)[0][:, 0]  # (B, K) rows
    others = logits.scatter(0, first, torch.finfo(logits.dtype).min)
    weights_without = segment_softmax(others, offsets).unsqueeze(1)
    without = segment_sum(weights_without * values, offsets)  # (B, C, K), without the first
    share = (weights / (1 - weights)).unsqueeze(1)
    lost = share * (values - means[ids])
    rows = first.unsqueeze(1).expand_as(means)
    return lost.scatter(0, rows, means - without)
