"""Mask annealing: how many queries of each block still attend within their masks.

During a block's window (start, end) of the training, with progress t,

    share(t) = 1 before it,  (1 - (t - start) / (end - start))^0.9 in it,  0 after it

and windows of later blocks follow those of earlier ones (A572). Shares are kept as integers,
numbers of 2^-23: averages of weights (`callbacks/run/ema.py`) leave integers alone, and an average
of floats would never become 0.

Letters: B images, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from structures.keyed_words import STEP, mix

PARTS: Final = 2**23
_POWER: Final = 0.9
Window = tuple[float, float]


def staggered(num_blocks: int) -> list[Window]:
    """Return windows of equal length, one after the other, with one length before and after.

    Four blocks in 12 epochs have epochs 2 to 4, 4 to 6, 6 to 8 and 8 to 10, as published.

    >>> [round(12 * end) for _, end in staggered(4)]
    [4, 6, 8, 10]
    """
    lengths = num_blocks + 2
    return [((k + 1) / lengths, (k + 2) / lengths) for k in range(num_blocks)]


def check_windows(windows: Sequence[Window], num_blocks: int) -> list[Window]:
    """Return the windows.

    Raises:
        ValueError: their number is not ``num_blocks``, or one is not 0 <= start < end <= 1.
    """
    if len(windows) != num_blocks:
        raise ValueError(f"annealing needs {num_blocks} windows, one a block, got {len(windows)}")
    for start, end in windows:
        if not 0 <= start < end <= 1:
            raise ValueError(
                "a window of annealing is (start, end) as shares of the training, "
                f"0 <= start < end <= 1, got ({start}, {end})"
            )
    return [(start, end) for start, end in windows]


def share(progress: float, window: Window) -> float:
    """Return the share of masked queries of a block, in [0, 1].

    Args:
        progress: share of the optimizer steps that are done, in [0, 1].
        window: start and end.
    """
    start, end = window
    done = min(max((progress - start) / (end - start), 0.0), 1.0)
    return float((1 - done) ** _POWER)


def as_parts(shares: Tensor) -> Tensor:
    """Return shares in [0, 1] as int64 numbers of 2^-23."""
    return (shares.double() * PARTS).round().long()


def masked_queries(parts: int, num_queries: int, key: int, index: Tensor, block: int) -> Tensor:
    """Choose queries that attend within their masks, (B, Q) bool; the others attend everywhere.

    Args:
        parts: share of the queries, in numbers of 2^-23; each is chosen by itself.
        num_queries: Q.
        key: changes from step to step.
        index: (B,) int64, numbers of the images in their data set.
        block: position of the block.
    """
    words = mix(mix(index + mix(torch.tensor(key, device=index.device))) + block)  # (B,)
    queries = torch.arange(num_queries, device=index.device) * STEP
    drawn = (mix(words[:, None] + queries) >> 41) & (PARTS - 1)
    return drawn < parts
