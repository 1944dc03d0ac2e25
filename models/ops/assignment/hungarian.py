"""One-to-one assignment of the smallest total cost (Kuhn 1955), solved on the host by scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.ops.precision import at_least_float32

_DEAREST = 1e12  # instead of costs that are not finite, whose pairs come last


@torch.no_grad()
def assign(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Assign queries and objects of several problems, with one copy from the device.

    Args:
        costs: (Q, M) cost of each pair of query and object; Q and M may differ between problems
            and may be 0. A cost that is not finite counts as larger than any other.

    Returns:
        Queries and objects of each problem, both (min(Q, M),) int64 on the host, queries in
        ascending order. With more objects than queries, those are left out that make the rest
        cheapest.

    >>> assign([torch.tensor([[1.0, 2.0], [0.5, 3.0], [9.0, 9.0]])])
    [(tensor([0, 1]), tensor([1, 0]))]
    """
    if not costs:
        return []
    flat = finite_costs(torch.cat([at_least_float32(cost).flatten() for cost in costs]))
    ends = np.cumsum([cost.numel() for cost in costs])
    solved = []
    for cost, part in zip(costs, np.split(flat, ends[:-1]), strict=True):
        queries, objects = linear_sum_assignment(part.reshape(cost.shape))
        solved.append((torch.from_numpy(queries), torch.from_numpy(objects)))
    return solved


def finite_costs(cost: Tensor) -> npt.NDArray[np.floating]:
    """Return costs on the host; one that is not finite becomes larger than any sensible one."""
    known = at_least_float32(cost.detach()).cpu().numpy()
    finite: npt.NDArray[np.floating] = np.nan_to_num(
        known, nan=_DEAREST, posinf=_DEAREST, neginf=_DEAREST
    )
    return finite
