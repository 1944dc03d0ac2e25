"""Reductions over the segments of packed rows.

N rows hold B segments one after the other: segment b is rows ``offsets[b]:offsets[b + 1]``, so
``offsets`` (B + 1,) runs from 0 to N and never decreases. Nothing loops over segments or reads a
tensor back to the host, and everything is computed in float32 at least, also under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.precision import at_least_float32


def segment_ids(offsets: Tensor, num_rows: int) -> Tensor:
    """Return the segment of every row.

    Args:
        offsets: (B + 1,) int64.
        num_rows: N, which the caller knows from a shape; reading it from ``offsets`` would wait
            for the device.

    Returns:
        (N,) int64 in [0, B).
    """
    segments = torch.arange(offsets.shape[0] - 1, device=offsets.device)
    return segments.repeat_interleave(offsets.diff(), output_size=num_rows)


def segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """Sum the rows of each segment.

    Args:
        values: (N, ...).
        offsets: (B + 1,) int64.

    Returns:
        (B, ...); 0 for an empty segment.
    """
    values = at_least_float32(values)
    sums = values.new_zeros(offsets.shape[0] - 1, *values.shape[1:])
    return sums.index_add(0, segment_ids(offsets, values.shape[0]), values)


def segment_mean(values: Tensor, offsets: Tensor) -> Tensor:
    """Average the rows of each segment.

    Args:
        values: (N, ...).
        offsets: (B + 1,) int64.

    Returns:
        (B, ...); 0 for an empty segment.
    """
    counts = offsets.diff().clamp(min=1)
    return segment_sum(values, offsets) / counts.view(-1, *[1] * (values.ndim - 1))


def segment_max(values: Tensor, offsets: Tensor) -> Tensor:
    """Take the largest row of each segment, column by column.

    Rows that tie share the gradient equally.

    Args:
        values: (N, ...).
        offsets: (B + 1,) int64.

    Returns:
        (B, ...); minus infinity for an empty segment.
    """
    values = at_least_float32(values)
    lowest = values.new_full((offsets.shape[0] - 1, *values.shape[1:]), -torch.inf)
    ids = segment_ids(offsets, values.shape[0])
    index = ids.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
    return lowest.scatter_reduce(0, index, values, reduce="amax")


def segment_softmax(logits: Tensor, offsets: Tensor) -> Tensor:
    """Normalise each segment's logits to weights that sum to 1, column by column.

    A logit of minus infinity gets weight 0 as long as its segment has a finite one.

    Args:
        logits: (N,) or (N, K).
        offsets: (B + 1,) int64.

    Returns:
        The shape of ``logits``, in [0, 1]. Empty segments own no rows and need no value.
    """
    logits = at_least_float32(logits)
    ids = segment_ids(offsets, logits.shape[0])
    # The largest logit only guards against overflow and cancels, so it needs no gradient.
    largest = segment_max(logits.detach(), offsets)
    weights = (logits - largest.index_select(0, ids)).exp()
    totals = segment_sum(weights, offsets)
    return weights / totals.index_select(0, ids)


def segment_weighted_sum(values: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Sum the rows of each segment once for every column of weights.

    Args:
        values: (N, E).
        weights: (N, K).
        offsets: (B + 1,) int64.

    Returns:
        (B, K, E); 0 for an empty segment.
    """
    values, weights = at_least_float32(values), at_least_float32(weights)
    if offsets.shape[0] == 2:
        # One bag of very many instances is the usual whole-slide batch: a matrix product needs
        # neither (N, K, E) memory nor atomic additions that all meet in the same few cells.
        with torch.autocast(values.device.type, enabled=False):
            return (weights.transpose(0, 1) @ values).unsqueeze(0)
    return segment_sum(weights.unsqueeze(2) * values.unsqueeze(1), offsets)


def segment_log_softmax(logits: Tensor, offsets: Tensor) -> Tensor:
    """Return the logarithm of `segment_softmax` without forming small weights first.

    Args:
        logits: (N,) or (N, K), finite.
        offsets: (B + 1,) int64.

    Returns:
        The shape of ``logits``, at most 0.
    """
    logits = at_least_float32(logits)
    ids = segment_ids(offsets, logits.shape[0])
    return logits - segment_logsumexp(logits, offsets).index_select(0, ids)


def segment_logsumexp(values: Tensor, offsets: Tensor) -> Tensor:
    """Return log(sum(exp)) of each segment, column by column.

    Args:
        values: (N, ...), finite.
        offsets: (B + 1,) int64, no segment empty.

    Returns:
        (B, ...).
    """
    values = at_least_float32(values)
    ids = segment_ids(offsets, values.shape[0])
    # The largest value only guards against overflow and cancels, so it needs no gradient.
    largest = segment_max(values.detach(), offsets)
    shifted = (values - largest.index_select(0, ids)).exp()
    return segment_sum(shifted, offsets).log() + largest
