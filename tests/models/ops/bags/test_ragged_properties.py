"""Reductions over packed segments against a loop over bags, empty ones among them."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from models.ops.bags.ragged import (
    segment_ids,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
    segment_weighted_sum,
)

VALUES = st.floats(-50, 50, width=32)


@st.composite
def bags(draw):
    """Draw (N, K) float64 rows and the offsets of up to 5 bags of 0 to 4 rows."""
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    shape = (int(offsets[-1]), draw(st.integers(1, 3)))
    numbers = draw(st.lists(VALUES, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return torch.tensor(numbers, dtype=torch.float64).view(shape), offsets


def split(values, offsets):
    return [values[a:b] for a, b in itertools.pairwise(offsets.tolist())]


@given(bags())
def test_sum_mean_max_and_ids(drawn):
    values, offsets = drawn
    parts = split(values, offsets)
    torch.testing.assert_close(segment_sum(values, offsets), torch.stack([p.sum(0) for p in parts]))
    means = [p.mean(0) if len(p) else p.new_zeros(p.shape[1]) for p in parts]
    torch.testing.assert_close(segment_mean(values, offsets), torch.stack(means))
    low = [p.max(0).values if len(p) else p.new_full(p.shape[1:], -torch.inf) for p in parts]
    assert torch.equal(segment_max(values, offsets), torch.stack(low))
    ids = [b for b, part in enumerate(parts) for _ in part]
    assert segment_ids(offsets, len(values)).tolist() == ids


@given(bags(), st.floats(-1e4, 1e4))
def test_softmax_of_every_bag_and_its_shift(drawn, shift):
    values, offsets = drawn
    weights = segment_softmax(values, offsets)
    expected = torch.cat([part.softmax(0) for part in split(values, offsets)])
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(segment_softmax(values + shift, offsets), weights, rtol=1e-9, atol=0)
    for part in split(weights, offsets):
        if len(part):
            torch.testing.assert_close(part.sum(0), torch.ones_like(part[0]))


@given(bags())
def test_softmax_gradient(drawn):
    """The gradient of sum(c * softmax) is w (c - sum w c), bag by bag."""
    values, offsets = drawn
    values.requires_grad_()
    factors = torch.arange(values.numel(), dtype=torch.float64).view(values.shape)
    weights = segment_softmax(values, offsets)
    (weights * factors).sum().backward()
    means = segment_sum(weights.detach() * factors, offsets)
    expected = weights.detach() * (factors - means[segment_ids(offsets, len(values))])
    torch.testing.assert_close(values.grad, expected, rtol=1e-7, atol=1e-9)


@given(bags(), st.integers(0, 9))
def test_order_within_a_bag_does_not_matter(drawn, seed):
    values, offsets = drawn
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [
            a + torch.randperm(b - a, generator=generator)
            for a, b in itertools.pairwise(offsets.tolist())
        ]
    )
    torch.testing.assert_close(segment_sum(values[order], offsets), segment_sum(values, offsets))
    assert torch.equal(segment_max(values[order], offsets), segment_max(values, offsets))
    moved = segment_softmax(values, offsets)[order]
    torch.testing.assert_close(segment_softmax(values[order], offsets), moved)


@given(bags(), st.integers(1, 2))
def test_weighted_sum(drawn, branches):
    values, offsets = drawn
    weights = torch.sin(torch.arange(len(values) * branches, dtype=torch.float64))
    weights = weights.view(len(values), branches)
    expected = [
        w.T @ v for w, v in zip(split(weights, offsets), split(values, offsets), strict=True)
    ]
    found = segment_weighted_sum(values, weights, offsets)
    torch.testing.assert_close(found, torch.stack(expected))
