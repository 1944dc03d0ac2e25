"""Assignment of several queries to an object, as many as fit it (SimOTA, arXiv 2107.08430).

An object g takes the k_g queries that are cheapest for it, with

    k_g = max(1, floor(sum of the `top` largest IoUs of a query with g)), at most N

A query that several objects take stays with the one it is cheapest for, and an object that is left
without a query gets a free one. Assumptions A600 and A601.

Letters: N queries, G objects.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.ops.assignment.hungarian import finite_costs


@torch.no_grad()
def sim_ota(cost: Tensor, iou: Tensor, top: int = 10) -> Tensor:
    """Assign queries to objects, solved on the host.

    Args:
        cost: (N, G) cost of each pair; one that is not finite counts as larger than any other.
        iou: (N, G) in [0, 1]; one that is not finite counts as 0.
        top: IoUs of an object that are summed, at least 1; all of them if there are fewer.

    Returns:
        (N,) int64, the object of each query or -1, on the device of ``cost``. Among equal costs
        the query, then the object of the lower index comes first. Objects without a query take
        free ones, the cheapest pair of them first; without a free query they stay without.

    Raises:
        ValueError: the shapes differ or ``top`` is below 1.

    >>> cost = torch.tensor([[1.0, 5.0], [2.0, 1.0], [3.0, 9.0], [9.0, 9.0]])
    >>> iou = torch.tensor([[0.9, 0.0], [0.8, 0.9], [0.7, 0.0], [0.0, 0.0]])
    >>> sim_ota(cost, iou)  # the first object takes two queries and loses one of them
    tensor([ 0,  1, -1, -1])
    """
    if cost.dim() != 2 or cost.shape != iou.shape:
        raise ValueError(
            f"cost and iou must have the shape (N, G), got {tuple(cost.shape)} and "
            f"{tuple(iou.shape)}"
        )
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    number, objects = cost.shape
    owner = np.full(number, -1)
    if not number or not objects:
        return torch.from_numpy(owner).to(cost.device)
    costs = finite_costs(cost)
    overlap = np.nan_to_num(iou.detach().cpu().double().numpy(), posinf=0, neginf=0)
    fitting = np.sort(np.ascontiguousarray(overlap.T))[:, ::-1][:, :top].sum(axis=1)
    taken = np.clip(np.floor(fitting), 1, number)  # (G,)
    order = np.ascontiguousarray(costs.T).argsort(kind="stable")
    claimed = np.zeros(order.shape, dtype=bool)  # (G, N)
    np.put_along_axis(claimed, order, np.arange(number) < taken[:, None], axis=1)
    some = claimed.any(axis=0)
    owner[some] = np.where(claimed[:, some], costs.T[:, some], np.inf).argmin(axis=0)
    empty, free = np.setdiff1d(np.arange(objects), owner), np.flatnonzero(~some)
    while len(empty) and len(free):
        pair = costs[np.ix_(free, empty)].argmin()
        query, to = divmod(int(pair), len(empty))
        owner[free[query]] = empty[to]
        free, empty = np.delete(free, query), np.delete(empty, to)
    return torch.from_numpy(owner).to(cost.device)
