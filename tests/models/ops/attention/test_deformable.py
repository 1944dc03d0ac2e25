"""Deformable attention against a loop over neighbours."""

import itertools

import pytest
import torch

from models.ops.attention import deformable
from models.ops.attention.deformable import deformable_attention

SHAPES = [(3, 4), (2, 2)]


def loop(value, shapes, locations, weights):
    """Return the sum over the four neighbours of each location, one by one."""
    batch, _, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    total = value.new_zeros(batch, queries, heads, width)
    axes = (batch, queries, heads, len(shapes), points)
    for b, q, m, level, p in itertools.product(*map(range, axes)):
        start = sum(h * w for h, w in shapes[:level])
        h, w = shapes[level]
        x = float(locations[b, q, m, level, p, 0]) * w - 0.5
        y = float(locations[b, q, m, level, p, 1]) * h - 0.5
        for column, row in itertools.product(range(w), range(h)):
            part = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
            seen = value[b, start + row * w + column, m]
            total[b, q, m] += weights[b, q, m, level, p] * part * seen
    return total.flatten(2)


def inputs(seed=0, spread=1.4):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.double}
    value = torch.randn(2, 16, 2, 3, **options)
    locations = (torch.rand(2, 5, 2, 2, 3, 2, **options) - 0.5) * spread + 0.5
    return value, locations, torch.rand(2, 5, 2, 2, 3, **options)


@pytest.fixture(params=["whole", "parts", "grids"])
def way(request, monkeypatch):
    """All rows at once, a few at a time, and as on other devices."""
    if request.param == "parts":
        monkeypatch.setattr(deformable, "_PART", 20)
    if request.param == "grids":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


@pytest.mark.parametrize("spread", [0.9, 1.4, 3.0])
def test_it_equals_a_loop_over_neighbours(spread, way):
    value, locations, weights = inputs(spread=spread)
    found = deformable_attention(value, SHAPES, locations, weights)
    expected = loop(value, SHAPES, locations, weights)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_its_gradients_are_those_of_differences(way):
    given = [one.requires_grad_() for one in inputs()]
    assert torch.autograd.gradcheck(lambda v, x, a: deformable_attention(v, SHAPES, x, a), given)


@pytest.mark.parametrize("place", [-0.6, 1.6, -1e6, 1e6, 3e9, -3e9])
def test_locations_outside_give_zero(place, way):
    value, locations, weights = inputs()
    found = deformable_attention(value, SHAPES, torch.full_like(locations, place), weights)
    assert torch.equal(found, torch.zeros_like(found))


def test_levels_that_do_not_fit_are_refused():
    value, locations, weights = inputs()
    with pytest.raises(ValueError, match=r"\(2, 3\)\] do not have 16 cells on 2 levels"):
        deformable_attention(value, [(3, 4), (2, 3)], locations, weights)


def test_gradients_of_all_ones_are_read_as_such(way):
    """The gradient of a sum has no memory of its own."""
    given = [one.requires_grad_() for one in inputs()]
    out = deformable_attention(given[0], SHAPES, *given[1:])
    found = torch.autograd.grad(out.sum(), given, retain_graph=True)
    expected = torch.autograd.grad(out, given, torch.ones_like(out))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_no_query_gives_no_output_and_zero_gradients():
    value, locations, weights = (one.requires_grad_() for one in inputs())
    found = deformable_attention(value, SHAPES, locations[:, :0], weights[:, :0])
    assert found.shape == (2, 0, 6)
    found.sum().backward()
    assert not value.grad.any()


def test_half_precision_is_computed_in_float32():
    value, locations, weights = (one.float() for one in inputs())
    half = value.bfloat16()
    found = deformable_attention(half, SHAPES, locations, weights)
    assert found.dtype == torch.bfloat16
    expected = deformable_attention(half.float(), SHAPES, locations, weights)
    assert torch.equal(found, expected.bfloat16())


def test_values_that_are_not_contiguous_are_read_as_they_are(way):
    value, locations, weights = inputs()
    wide = torch.stack([value, value + 1], dim=-1)
    found = deformable_attention(wide[..., 0], SHAPES, locations, weights)
    assert torch.equal(found, deformable_attention(value, SHAPES, locations, weights))


def test_places_that_are_not_numbers_give_none_and_stop_nothing(way):
    value, locations, weights = inputs()
    locations[0, 0, 0, 0, 0, 0] = torch.nan
    found = deformable_attention(value, SHAPES, locations, weights)
    assert bool(found[0, 0, :3].isnan().all()) and bool(found[1].isfinite().all())
