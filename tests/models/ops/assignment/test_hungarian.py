"""Assignment of several problems at once against all permutations."""

import itertools

import pytest
import torch

from models.ops.assignment.hungarian import assign


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (1, 4), (4, 0), (0, 3)])
def test_no_permutation_is_cheaper(shape):
    cost = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))
    ((queries, objects),) = assign([cost])
    assert queries.dtype == objects.dtype == torch.int64
    number = min(shape)
    assert len(queries) == len(set(queries.tolist())) == len(set(objects.tolist())) == number
    assert queries.tolist() == sorted(queries.tolist())
    wide = cost if shape[0] >= shape[1] else cost.T
    totals = [
        sum(float(wide[row, column]) for column, row in enumerate(rows))
        for rows in itertools.permutations(range(len(wide)), number)
    ]
    assert float(cost[queries, objects].sum()) == pytest.approx(min(totals, default=0), abs=1e-6)


def test_problems_are_independent():
    generator = torch.Generator().manual_seed(1)
    costs = [torch.rand(shape, generator=generator) for shape in [(3, 2), (4, 0), (2, 6)]]
    together = assign(costs)
    for cost, found in zip(costs, together, strict=True):
        for one, other in zip(assign([cost])[0], found, strict=True):
            assert torch.equal(one, other)
    assert assign([]) == []


def test_costs_that_are_not_finite_come_last():
    nan, inf = float("nan"), float("inf")
    cost = torch.tensor([[nan, 1.0], [5.0, inf], [-inf, 9.0]], requires_grad=True)
    ((queries, objects),) = assign([cost])
    assert list(zip(queries.tolist(), objects.tolist(), strict=True)) == [(0, 1), (1, 0)]
