"""Reductions over the segments of packed rows.

N rows hold B consecutive segments: segment b is rows ``offsets[b]:offsets[b + 1]``, so ``offsets``
(B + 1,) runs from 0 to N and never decreases. No function loops over segments or reads a tensor
back to the host, and all compute in at least float32, also under autocast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.ops.precision import as_float64, at_least_float32, back_to

# Up to this many pairs of segment and weight column, one matrix product over all pairs is cheaper
# than adding row by row: 64 columns cost an eighth of a layer with 512 outputs.
_DENSE_COLUMNS = 64
_NARROW = 16  # columns of rows that are added up in float64


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


def segment_counts(ids: Tensor, segments: int, chosen: Tensor | None = None) -> Tensor:
    """Count the rows of each segment; the rows may be in any order.

    ``bincount`` would make the host wait for the device, because it needs the largest id.

    Args:
        ids: (N,) int64 in [0, segments), segment of each row.
        segments: B.
        chosen: (N,) bool, True for rows to count; all by default.

    Returns:
        (B,) int64.
    """
    ones = torch.ones_like(ids) if chosen is None else chosen.to(ids.dtype)
    return ids.new_zeros(segments).index_add_(0, ids, ones)


def segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """Sum the rows of each segment.

    Args:
        values: (N, ...).
        offsets: (B + 1,) int64.

    Returns:
        (B, ...); 0 for an empty segment.
    """
    values = at_least_float32(values)
    if offsets.shape[0] == 2:
        return values.sum(dim=0, keepdim=True)
    # Rows are added one after the other, so that the sum of many thousand rows would lose
    # precision in float32. Wide rows would cost too much and are pooled by a matrix product.
    narrow = math.prod(values.shape[1:]) <= _NARROW
    terms = as_float64(values) if narrow else values
    sums = terms.new_zeros(offsets.shape[0] - 1, *values.shape[1:])
    ids = segment_ids(offsets, values.shape[0]).to(terms.device)
    return back_to(values, sums.index_add(0, ids, terms))


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

    Equal largest rows share the gradient equally.

    Args:
        values: (N, ...).
        offsets: (B + 1,) int64.

    Returns:
        (B, ...); minus infinity for an empty segment.
    """
    values = at_least_float32(values)
    if offsets.shape[0] == 2 and values.shape[0] > 0:
        return values.amax(dim=0, keepdim=True)
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
        The shape of ``logits``, in [0, 1]. Empty segments have no rows.
    """
    logits = at_least_float32(logits)
    # The largest logit only guards against overflow and cancels, so it needs no gradient.
    largest = segment_max(logits.detach(), offsets)
    weights = (logits - _of_each_row(largest, offsets, logits)).exp()
    return weights / _of_each_row(segment_sum(weights, offsets), offsets, logits)


def segment_weighted_sum(values: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Sum the rows of each segment once for every column of weights.

    Args:
        values: (N, E), finite: NaN or infinity may spread to other segments.
        weights: (N, K).
        offsets: (B + 1,) int64.

    Returns:
        (B, K, E); 0 for an empty segment.
    """
    values, weights = at_least_float32(values), at_least_float32(weights)
    segments, columns = offsets.shape[0] - 1, weights.shape[1]
    if segments * columns > _DENSE_COLUMNS:
        parts = [segment_sum(values * weights[:, k : k + 1], offsets) for k in range(columns)]
        return torch.stack(parts, dim=1)
    if segments > 1:
        # Zero outside its own segment, so that one matrix product needs neither (N, K, E) memory
        # nor atomic additions to the same few cells.
        ids = segment_ids(offsets, values.shape[0]).view(-1, 1, 1).expand(-1, 1, columns)
        spread = weights.new_zeros(weights.shape[0], segments, columns)
        weights = spread.scatter(1, ids, weights.unsqueeze(1)).flatten(1)
    with torch.autocast(values.device.type, enabled=False):
        return (weights.transpose(0, 1) @ values).view(segments, columns, -1)


def segment_log_softmax(logits: Tensor, offsets: Tensor) -> Tensor:
    """Return the logarithm of `segment_softmax` without computing the weights themselves.

    Args:
        logits: (N,) or (N, K), finite.
        offsets: (B + 1,) int64.

    Returns:
        The shape of ``logits``, at most 0.
    """
    logits = at_least_float32(logits)
    return logits - _of_each_row(segment_logsumexp(logits, offsets), offsets, logits)


def segment_logsumexp(values: Tensor, offsets: Tensor) -> Tensor:
    """Return log(sum(exp)) of each segment, column by column.

    Args:
        values: (N, ...), finite.
        offsets: (B + 1,) int64, no segment empty.

    Returns:
        (B, ...).
    """
    values = at_least_float32(values)
    # The largest value only guards against overflow and cancels, so it needs no gradient.
    largest = segment_max(values.detach(), offsets)
    shifted = (values - _of_each_row(largest, offsets, values)).exp()
    return segment_sum(shifted, offsets).log() + largest


def _of_each_row(values: Tensor, offsets: Tensor, rows: Tensor) -> Tensor:
    """Expand values of segments (B, ...) to their rows (N, ...).

    The gradient is a sum over the rows of a segment, with the precision of `segment_sum`.
    """
    if offsets.shape[0] == 2:
        return values.expand_as(rows)
    wide = as_float64(values)
    ids = segment_ids(offsets, rows.shape[0]).to(wide.device)
    return back_to(values, wide.index_select(0, ids))
