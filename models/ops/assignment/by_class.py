"""One-to-one assignment within each class: no object is assigned across classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.ops.assignment.hungarian import assign


@torch.no_grad()
def assign_by_class(
    costs: Sequence[Tensor], of_queries: Sequence[Tensor], of_objects: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Assign the objects of each class to the queries of that class, for several problems.

    Equals a Hungarian assignment in which pairs of different classes are too dear to be chosen, but
    is exact and smaller.

    Args:
        costs: (Q, M) cost of each pair of query and object.
        of_queries: (Q,) class of each query, on the host.
        of_objects: (M,) class of each object, on the host.

    Returns:
        Queries and objects of each problem, int64 on the host, queries in ascending order. Of a
        class with more objects than queries, the objects are left out that make the rest cheapest.

    >>> cost = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    >>> assign_by_class([cost], [torch.tensor([5, 6])], [torch.tensor([6, 6])])
    [(tensor([1]), tensor([1]))]
    """
    parts, places = [], []  # of each class of each problem
    for number, (cost, own, objects) in enumerate(zip(costs, of_queries, of_objects, strict=True)):
        for label in sorted(set(objects.tolist())):
            rows, columns = (own == label).nonzero()[:, 0], (objects == label).nonzero()[:, 0]
            parts.append(cost[rows.to(cost.device)][:, columns.to(cost.device)])
            places.append((number, rows, columns))
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in costs]
    for (number, rows, columns), (query, column) in zip(places, assign(parts), strict=True):
        found[number].append((rows[query], columns[column]))
    return [_in_order(pairs) for pairs in found]


def _in_order(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    nothing = torch.zeros(0, dtype=torch.int64)
    queries = torch.cat([nothing, *(query for query, _ in pairs)])
    objects = torch.cat([nothing, *(column for _, column in pairs)])
    order = queries.argsort()
    return queries[order], objects[order]
