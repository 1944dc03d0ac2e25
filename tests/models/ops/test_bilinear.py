"""Neighbours of places on an axis."""

import torch

from models.ops.bilinear import neighbours


def test_neighbours_by_hand():
    found = neighbours(torch.tensor([0.5, 1.25, 0.0, 3.9, -1.0, 9.0]), 4)
    assert found.cells.tolist() == [[0, 1], [0, 1], [0, 0], [3, 3], [0, 0], [3, 3]]
    expected = [[1, 0], [0.25, 0.75], [0, 0.5], [0.6, 0], [0, 0], [0, 0]]
    torch.testing.assert_close(found.weights, torch.tensor(expected))
    assert found.inside.tolist() == [
        [True, True], [True, True], [False, True], [True, False], [False, False], [False, False],
    ]  # fmt: skip


def test_places_far_outside_have_no_neighbour():
    found = neighbours(torch.tensor([-1e30, 1e30, -torch.inf, torch.inf]), 4)
    assert not found.inside.any()
    assert torch.equal(found.weights, torch.zeros(4, 2))
