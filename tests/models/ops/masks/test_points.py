"""Random points and the values of maps at them."""

import pytest
import torch
from torch.nn import functional

from models.ops.masks import points as module
from models.ops.masks.points import (
    keyed_points,
    moved_points,
    sample_maps,
    sample_masks,
    sample_shared,
    uncertain_points,
)


def grid_sampled(maps, points):
    """Return (N, P) of maps (N, h, w) at points (P, 2)."""
    grid = (2 * points - 1)[None, None]
    return functional.grid_sample(maps[None].double(), grid.double(), align_corners=False)[0, :, 0]


@pytest.fixture
def maps():
    return torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def points():
    return torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.1


def test_all_ways_to_sample_are_those_of_grid_sample(maps, points):
    expected = grid_sampled(maps, points).float()
    torch.testing.assert_close(sample_maps(maps, points.expand(3, -1, -1)), expected)
    torch.testing.assert_close(sample_shared(maps, points).T, expected)
    masks, rows = maps > 0, torch.tensor([2, 0])
    expected = grid_sampled(masks[rows], points).float()
    torch.testing.assert_close(sample_masks(masks, rows, points), expected)
    each = sample_masks(masks, rows, points.expand(2, -1, -1))
    torch.testing.assert_close(each, expected)


def test_masks_are_read_a_few_at_a_time(points, monkeypatch):
    masks = torch.rand(5, 6, 9, generator=torch.Generator().manual_seed(2)) > 0.5
    rows = torch.tensor([4, 0, 0, 3, 1])
    each = torch.rand(5, 20, 2, generator=torch.Generator().manual_seed(3))
    expected = sample_masks(masks, rows, points), sample_masks(masks, rows, each)
    monkeypatch.setattr(module, "_COPIED", 2 * 54)
    assert torch.equal(sample_masks(masks, rows, points), expected[0])
    assert torch.equal(sample_masks(masks, rows, each), expected[1])
    assert sample_masks(masks, rows[:0], points).shape == (0, 50)


def test_points_stay_in_their_part_of_the_map():
    share = torch.tensor([[0.5, 1.0], [1.0, 0.25]])
    found = moved_points(keyed_points(torch.tensor(3), 500), torch.tensor([1, 2]), share)
    assert bool((found < share[:, None]).all())
    assert bool((found.amax(dim=1) > 0.9 * share).all())


def test_cells_that_are_not_valid_are_zero(maps, points):
    valid = torch.zeros(6, 9, dtype=torch.bool)
    valid[:4, :5] = True
    found = sample_shared(maps, points, valid)
    torch.testing.assert_close(found.T, grid_sampled(maps * valid, points).float())


def test_no_map_gives_no_value_and_a_gradient(points):
    nothing = torch.zeros(0, 6, 9, requires_grad=True)
    found = sample_maps(nothing, torch.zeros(0, 50, 2))
    assert found.shape == (0, 50)
    found.sum().backward()
    assert nothing.grad is not None


def test_points_are_functions_of_their_keys():
    words = torch.tensor([5, -(2**62), 7])
    found = keyed_points(words, 1000)
    assert torch.equal(found[1], keyed_points(words[1:2], 1000)[0])
    assert torch.equal(found[:, :10], keyed_points(words, 10))
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("moved", [False, True])
def test_points_are_uniform_and_independent(moved):
    """Mean, variance and covariance of x, y and of the points of another word; 3 deviations."""
    points = keyed_points(torch.arange(8), 20_000)
    if moved:
        points = moved_points(points[0], torch.arange(8) * 977, torch.ones(2))
    assert float(points.min()) >= 0
    assert float(points.max()) < 1
    series = points.transpose(1, 2).flatten(0, 1)  # 16 series of 20 000
    limit = 3.5 / 20_000**0.5
    assert float((series.mean(dim=1) - 0.5).abs().max()) < limit * 12**-0.5
    if not moved:  # series with a common table are independent over words, not over its points
        assert float(torch.corrcoef(series).fill_diagonal_(0).abs().max()) < limit
    squares = torch.histc(points[3, :, 0] * 10 // 1 * 10 + points[3, :, 1] * 10 // 1, 100)
    assert float(((squares - 200).square() / 200).sum()) < 99 + 4 * (2 * 99) ** 0.5


def test_offsets_make_two_uses_of_a_table_independent():
    """The same point of the table, over many offsets."""
    table = keyed_points(torch.tensor([1]), 1)[0]
    one, other = (
        moved_points(table, torch.arange(n, n + 4000), torch.ones(2))[:, 0] for n in (0, 9000)
    )
    series = torch.cat([one, other], dim=1).T
    assert float(torch.corrcoef(series).fill_diagonal_(0).abs().max()) < 3.5 / 4000**0.5


def test_the_least_certain_candidates_are_chosen():
    maps = torch.linspace(-4, 4, 9).expand(1, 1, 9).contiguous()  # 0 at the centre of the map
    candidates = torch.stack([torch.linspace(0.06, 0.94, 45), torch.full((45,), 0.5)], dim=1)[None]
    others = torch.tensor([[[0.9, 0.5]]])
    found = uncertain_points(maps, candidates, others, 9)
    assert found.shape == (1, 10, 2)
    assert torch.equal(found[:, -1], others[:, 0])
    chosen = found[0, :-1, 0].sort().values
    torch.testing.assert_close(chosen, candidates[0, 18:27, 0])
