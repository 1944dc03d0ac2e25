"""Assignment within classes against one Hungarian assignment a class and against dear pairs."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from models.ops.assignment.by_class import assign_by_class


def problem(seed):
    generator = torch.Generator().manual_seed(seed)
    classes, each = 4, 3
    own = torch.arange(classes).repeat_interleave(each)[torch.randperm(classes * each)]
    objects = torch.randint(0, classes + 1, (int(torch.randint(0, 12, (1,))),))  # one has no query
    return torch.rand(len(own), len(objects), generator=generator), own, objects


def test_it_equals_an_assignment_of_each_class():
    problems = [problem(seed) for seed in range(60)]
    found = assign_by_class(*map(list, zip(*problems, strict=True)))
    for (cost, own, objects), (queries, numbers) in zip(problems, found, strict=True):
        assert torch.equal(own[queries], objects[numbers])
        assert queries.tolist() == sorted(set(queries.tolist()))
        pairs = set()
        for label in range(5):
            rows, columns = (own == label).nonzero()[:, 0], (objects == label).nonzero()[:, 0]
            one, other = linear_sum_assignment(cost[rows][:, columns].numpy())
            pairs |= set(zip(rows[one].tolist(), columns[other].tolist(), strict=True))
        assert set(zip(queries.tolist(), numbers.tolist(), strict=True)) == pairs


def test_pairs_of_different_classes_are_too_dear():
    """The authors' form, where every class has as many queries as objects."""
    for seed in range(20):
        cost, own, objects = problem(seed)
        kept = torch.cat([(objects == label).nonzero()[:3, 0] for label in range(4)])
        cost, objects = cost[:, kept], objects[kept]
        ((queries, numbers),) = assign_by_class([cost], [own], [objects])
        dear = cost + 1000 * (own[:, None] != objects)
        one, other = linear_sum_assignment(dear.numpy())
        assert set(zip(one.tolist(), other.tolist(), strict=True)) == set(
            zip(queries.tolist(), numbers.tolist(), strict=True)
        )


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 2)])
def test_nothing_to_assign(shape):
    queries, objects = torch.zeros(shape[0], dtype=torch.int64), torch.ones(shape[1])
    ((rows, columns),) = assign_by_class([torch.zeros(shape)], [queries], [objects.long()])
    assert rows.dtype == columns.dtype == torch.int64
    assert len(rows) == len(columns) == 0
