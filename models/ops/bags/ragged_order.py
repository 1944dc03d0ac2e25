"""Order within the segments of packed rows: ranks, the k largest, random choices.

Segments as in `models.ops.bags.ragged`. No function loops over segments or reads a tensor back to
the host: numbers of rows are known from shapes or stay on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.bags.ragged import segment_ids


def segment_order(values: Tensor, offsets: Tensor, descending: bool = False) -> Tensor:
    """Sort the rows of each segment, column by column.

    Args:
        values: (N,) or (N, K); equal values keep their order. They may be on the host if the
            offsets are on a device that lacks their precision.
        offsets: (B + 1,) int64.
        descending: largest first.

    Returns:
        int64 of the shape of ``values``, on the device of ``offsets``: the rows of each segment in
        sorted order, segment after segment.
    """
    order = values.detach().argsort(dim=0, descending=descending, stable=True).to(offsets.device)
    if offsets.shape[0] == 2:
        return order
    ids = segment_ids(offsets, values.shape[0])
    return order.gather(0, ids[order].argsort(dim=0, stable=True))


def segment_rank(values: Tensor, offsets: Tensor, descending: bool = False) -> Tensor:
    """Return each row's rank in its sorted segment, column by column, from 0.

    Args:
        values: (N,) or (N, K); of equal values the earlier one comes first.
        offsets: (B + 1,) int64.
        descending: largest first.

    Returns:
        int64 of the shape of ``values``.

    >>> values, offsets = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]), torch.tensor([0, 3, 5])
    >>> segment_rank(values, offsets).tolist()
    [2, 0, 1, 1, 0]
    """
    order = segment_order(values, offsets, descending)
    rows = torch.arange(values.shape[0], device=offsets.device)
    places = rows - offsets[segment_ids(offsets, values.shape[0])]
    places = places.view(-1, *[1] * (values.ndim - 1)).expand_as(order)
    return torch.empty_like(order).scatter_(0, order, places)


def segment_topk(
    values: Tensor, offsets: Tensor, k: int, largest: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the rows of the k largest (or smallest) values of each segment, best first.

    Args:
        values: (N,) or (N, K).
        offsets: (B + 1,) int64, no segment empty.
        k: at least 1; a smaller segment gives fewer rows.
        largest: take the largest values instead of the smallest.

    Returns:
        ``rows`` (B, k) or (B, k, K) int64 and ``valid``, bool of the same shape: if a segment has
        fewer than k rows, the surplus entries repeat its last one and are not valid.
    """
    order = segment_order(values, offsets, descending=largest)
    places = torch.arange(k, device=offsets.device)
    sizes = offsets.diff().unsqueeze(1)  # (B, 1)
    valid = places < sizes  # (B, k)
    rows = order[offsets[:-1].unsqueeze(1) + torch.minimum(places, sizes - 1)]
    return rows, valid.view(*valid.shape, *[1] * (values.ndim - 1)).expand_as(rows)
