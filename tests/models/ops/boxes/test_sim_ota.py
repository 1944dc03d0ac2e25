"""Several queries for an object, against the rules written out query by query."""

import pytest
import torch

from models.ops.boxes.sim_ota import sim_ota


def _slow(cost, iou, top):
    """Return the object of each query in the words of the rules."""
    queries, objects = range(cost.shape[0]), range(cost.shape[1])
    claims = {query: [] for query in queries}
    for thing in objects:
        best = sorted(iou[:, thing].tolist(), reverse=True)[:top]
        for query in sorted(queries, key=lambda q: (float(cost[q, thing]), q))[
            : max(1, int(sum(best)))
        ]:
            claims[query].append(thing)
    owner = [min(claims[q], key=lambda g, q=q: (float(cost[q, g]), g), default=-1) for q in queries]
    while True:
        pairs = [
            (float(cost[q, g]), q, g)
            for q in queries
            for g in objects
            if owner[q] < 0 and g not in owner
        ]
        if not pairs:
            return owner
        _, query, thing = min(pairs)
        owner[query] = thing


_SHAPES = [(30, 4), (12, 12), (5, 9), (9, 1), (1, 3), (4, 0), (0, 3), (0, 0)]


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("levels", [0, 2, 1])  # costs: all different, of two values, all equal
@pytest.mark.parametrize("top", [1, 10, 100])
def test_equals_the_rules(shape, levels, top):
    generator = torch.Generator().manual_seed(sum(shape) + levels)
    for _ in range(3):
        cost, iou = torch.rand((2, *shape), generator=generator)
        cost = (cost * levels).floor() if levels else cost
        found = sim_ota(cost, iou, top)
        assert found.dtype == torch.int64
        assert found.tolist() == _slow(cost, iou, top)
        without = set(range(shape[1])) - set(found.tolist())
        assert not without or -1 not in found.tolist()  # unless all queries are taken


def test_permutes_with_the_queries():
    cost, iou = torch.rand((2, 40, 7), generator=torch.Generator().manual_seed(0))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sim_ota(cost[order], iou[order]), sim_ota(cost, iou)[order])


def test_better_boxes_bring_more_queries():
    cost = torch.arange(20.0)[:, None]
    for iou, number in [(0.0, 1), (0.19, 1), (0.25, 2), (0.5, 5), (1.0, 10)]:
        assert int((sim_ota(cost, torch.full((20, 1), iou)) == 0).sum()) == number


def test_values_that_are_not_finite_come_last():
    nan, inf = float("nan"), float("inf")
    cost = torch.tensor([[nan, 1.0], [5.0, inf], [-inf, 9.0]], requires_grad=True)
    assert sim_ota(cost, torch.full((3, 2), nan)).tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("shapes", "top", "message"),
    [
        (((3, 2), (2, 3)), 10, r"cost and iou must have the shape \(N, G\), got \(3, 2\)"),
        (((3,), (3,)), 10, r"must have the shape \(N, G\), got \(3,\)"),
        (((3, 2), (3, 2)), 0, "top must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(shapes, top, message):
    with pytest.raises(ValueError, match=message):
        sim_ota(*(torch.zeros(shape) for shape in shapes), top)
