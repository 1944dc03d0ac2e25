"""Choice of instances in packed bags: a fraction of each bag, by score or at random.

Segments as in `models.ops.bags.ragged`. The number of chosen rows per bag is a tensor on the
device, so no function loops over bags or reads a tensor back to the host.

Letters: N instances of B bags, K heads.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from models.ops.bags.ragged import segment_ids, segment_sum
from models.ops.bags.ragged_order import segment_rank

HeadFusion = Literal["vote", "mean"]
# Fractions are whole billionths: 100 x 0.07 means 7, but is 7.000000000000001 in doubles (A113).
_PARTS = 10**9


def ceil_share(sizes: Tensor, share: float) -> Tensor:
    """Return ceil(size x share) of each bag, (B,) int64.

    >>> ceil_share(torch.tensor([1, 3, 100]), 0.07).tolist()
    [1, 1, 7]
    """
    return -(-sizes * round(share * _PARTS) // _PARTS)


def floor_share(sizes: Tensor, share: float) -> Tensor:
    """Return floor(size x share) of each bag, (B,) int64.

    >>> floor_share(torch.tensor([1, 3, 100]), 0.29).tolist()
    [0, 0, 29]
    """
    return sizes * round(share * _PARTS) // _PARTS


def extreme_instances(
    scores: Tensor,
    offsets: Tensor,
    counts: Tensor,
    largest: bool = True,
    fusion: HeadFusion = "vote",
) -> Tensor:
    """Choose the instances of each bag with the largest or the smallest scores.

    Args:
        scores: (N,), or (N, K) with one column per head.
        offsets: (B + 1,) int64.
        counts: (B,) int64, number k of chosen instances of each bag.
        largest: choose the largest scores instead of the smallest.
        fusion: combination of several heads. ``vote``: each head votes for its own k, and the k
            instances with most votes are chosen, ties broken by the more extreme mean score (A114).
            ``mean``: each head chooses k // K, and the union is taken.

    Returns:
        (N,) bool.
    """
    many = counts[segment_ids(offsets, scores.shape[0])]  # (N,)
    if scores.ndim == 1:
        return segment_rank(scores, offsets, descending=largest) < many
    ranks = segment_rank(scores, offsets, descending=largest)  # (N, K)
    if fusion == "mean":
        return (ranks < (many // scores.shape[1]).unsqueeze(1)).any(dim=1)
    votes = (ranks < many.unsqueeze(1)).sum(dim=1)
    place = segment_rank(scores.mean(dim=1), offsets, descending=largest)
    return segment_rank(votes * scores.shape[0] - place, offsets, descending=True) < many


def random_instances(candidates: Tensor, order: Tensor, offsets: Tensor, counts: Tensor) -> Tensor:
    """Choose instances of each bag at random.

    Args:
        candidates: (N,) bool, instances that may be chosen.
        order: (N,) int64, random numbers (`models.ops.bags.keyed_random.random_order`).
        offsets: (B + 1,) int64.
        counts: (B,) int64, number of instances of each bag; all candidates if there are fewer.

    Returns:
        (N,) bool.
    """
    last = torch.iinfo(order.dtype).max
    rank = segment_rank(order.masked_fill(~candidates, last), offsets)
    return candidates & (rank < counts[segment_ids(offsets, order.shape[0])])


def keep_one(kept: Tensor, scores: Tensor, offsets: Tensor) -> Tensor:
    """Keep the instance with the largest score in bags that would lose all instances.

    Args:
        kept: (N,) bool.
        scores: (N,), or (N, K), whose mean over K is used.
        offsets: (B + 1,) int64.

    Returns:
        (N,) bool, at least one of each bag.
    """
    if scores.ndim > 1:
        scores = scores.mean(dim=1)
    lost = segment_sum(kept, offsets) == 0  # (B,)
    best = segment_rank(scores, offsets, descending=True) == 0
    return kept | (best & lost[segment_ids(offsets, kept.shape[0])])
